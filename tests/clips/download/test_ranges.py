"""Files that are read in parts where they are: as if they were bytes in memory."""

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clips.http_server import serving
from vlfm.clips.download.ranges import Changed, LocalPart, RemotePart, VirtualFile
from vlfm.clips.download.rate import Rate
from vlfm.clips.download.web import Web
from vlfm.errors import BadClip

DATA = random.Random(0).randbytes(5000)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """`parts(cuts)`: the data cut in pieces, on a server and on disk by turns."""
    folder = tmp_path_factory.mktemp("parts")
    with serving() as server:

        def parts(cuts):
            server.faults.clear()
            opened = []
            for number, (start, stop) in enumerate(zip([0, *cuts], [*cuts, len(DATA)], strict=True)):
                if number % 2 and stop > start:
                    server.files[f"/{start}-{stop}"] = DATA[start:stop]
                    opened.append(RemotePart(f"{server.url}/{start}-{stop}", web(folder), 5))
                else:
                    path = folder / f"{start}-{stop}"
                    path.write_bytes(DATA[start:stop])
                    opened.append(LocalPart(path))
            return opened

        yield parts


def web(folder, timeout=10):
    return Web(timeout, Rate(folder, None))


places = st.integers(0, len(DATA) + 100)
moves = st.one_of(
    st.tuples(st.just("read"), st.integers(-1, 2000)),
    st.tuples(st.just("into"), st.integers(0, 300)),
    st.tuples(st.just("set"), places),
    st.tuples(st.just("end"), st.integers(-len(DATA), 10)),
    st.tuples(st.just("by"), st.integers(-50, 50)),
    st.tuples(st.just("will"), places),
    st.tuples(st.just("remember"), st.booleans()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(DATA)), max_size=4).map(sorted), st.lists(moves, max_size=12), st.integers(0, 300))
def test_it_reads_as_bytes_do(parts, cuts, moves, tail):
    file, truth = VirtualFile(parts(cuts), DATA[len(DATA) - tail :]), io.BytesIO(DATA)
    for what, number in moves:
        if what == "read":
            assert file.read(number) == truth.read(number)
        elif what == "into":
            ours, theirs = bytearray(number), bytearray(number)
            assert file.readinto(ours) == truth.readinto(theirs) and ours == theirs
        elif what == "set":
            assert file.seek(number) == truth.seek(number)
        elif what == "end":
            assert file.seek(number, io.SEEK_END) == truth.seek(number, io.SEEK_END)
        elif what == "by" and truth.tell() + number >= 0:
            assert file.seek(number, io.SEEK_CUR) == truth.seek(truth.tell() + number)
        elif what == "will":
            file.will_read(number)
        elif what == "remember":
            file.remember = number
        assert file.tell() == truth.tell()
        assert DATA.endswith(file.tail)


def test_before_the_start_is_an_error(parts):
    with pytest.raises(OSError):
        VirtualFile(parts([100])).seek(-len(DATA) - 1, io.SEEK_END)


def test_nothing_is_remembered_twice_and_not_too_much(parts, monkeypatch):
    file = VirtualFile(parts([2000]))
    file.remember = True
    file.seek(-100, io.SEEK_END)
    file.read(10)
    assert file.tail == DATA[-100:]
    file.seek(-300, io.SEEK_END)
    assert file.read() == DATA[-300:] == file.tail
    monkeypatch.setattr(VirtualFile, "LARGEST_TAIL", 4000)
    file.seek(500)
    with pytest.raises(BadClip, match="would have 4500 bytes"):
        file.read(1)


# -------------------------------------------------------------------------------------- on a server


@pytest.fixture
def remote(server, tmp_path):
    server.files["/a"] = DATA
    return lambda timeout=10: RemotePart(f"{server.url}/a", web(tmp_path, timeout), 3)


def test_what_is_read_in_order_comes_in_one_request(server, remote):
    file = VirtualFile([remote()])
    file.seek(1000)
    file.will_read(3000)
    assert b"".join(file.read(37) for _ in range(54)) == DATA[1000 : 1000 + 37 * 54]
    assert [wanted for _, wanted in server.asked] == ["bytes=0-0", "bytes=1000-2999"]
    assert server.sent <= 2001


def test_a_connection_that_breaks_is_taken_up_again(server, remote, waits):
    part = remote()
    server.faults = ["break", 503]
    assert VirtualFile([part]).read() == DATA
    assert len(waits) == 2 and len({wanted for _, wanted in server.asked[1:]}) == 2


def test_it_is_given_up_in_the_end(server, remote, waits):
    part = remote(0.3)
    server.faults = ["stall"] * 3 + [500] * 3
    file = VirtualFile([part])
    with pytest.raises(BadClip, match=r"/a cannot be downloaded.*tried 3 times"):
        file.read()


def test_a_server_that_gives_a_little_each_time_is_given_up(server, remote, waits):
    part = remote()
    server.faults = ["break"] * 99
    file = VirtualFile([part])
    with pytest.raises(BadClip, match="/a cannot be downloaded"):
        file.read()
    assert len(server.asked) == 1 + 3
    server.faults = ["break"]
    file.seek(1000)
    assert file.read(100) == DATA[1000:1100], "something else is another count"


@pytest.mark.parametrize("change", ["tag", "size", "gone"])
def test_another_file_at_the_address_is_noticed(server, remote, change):
    file = VirtualFile([remote()])
    assert file.read(10) == DATA[:10]
    if change == "tag":
        server.tag = '"two"'
    else:
        server.files["/a"] = DATA[:-1] if change == "size" else b"x"
    file.seek(100)
    with pytest.raises(Changed):
        file.read(10)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no ranges", "gives no parts of a file.*download the archive"),
        (404, "status 404"),
        ("wrong part", "gives no parts"),
    ],
)
def test_servers_that_will_not_do(server, remote, fault, message):
    server.faults = [fault]
    with pytest.raises(BadClip, match=message):
        remote()
    assert server.sent < len(DATA) or fault == "no ranges"


def test_an_empty_file(server, remote):
    server.files["/a"] = b""
    with pytest.raises(BadClip, match="empty"):
        remote()


def test_a_part_that_is_not_there(tmp_path):
    with pytest.raises(BadClip, match="cannot be read"):
        LocalPart(tmp_path / "none")
