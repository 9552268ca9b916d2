"""Whole files from a real HTTP server that misbehaves."""

import hashlib
import multiprocessing
import os

import pytest

from vlfm.clips import locate
from vlfm.clips.download import whole
from vlfm.errors import BadClip, VLFMError

DATA = bytes(range(256)) * 4000
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def url(server):
    server.files["/v.mp4"] = DATA
    return f"{server.url}/v.mp4"


def left(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_download_is_named_by_its_address_and_kept(server, find, tmp_path):
    server.files["/a%20b.mp4"] = b"film" * 1000  # as the client normalises it
    url = f"{server.url}/../../a%20b.mp4"
    path = find(url)
    assert path.parent == tmp_path / "in" and path.read_bytes() == b"film" * 1000
    assert path.name == hashlib.sha256(url.encode()).hexdigest()[:32] + ".video"
    asked = len(server.asked)
    assert find(url) == path and len(server.asked) == asked
    assert left(tmp_path) == [path.name]


def test_a_broken_download_goes_on_where_it_stopped(server, url, find, waits):
    server.faults = [503, "break", "break"]
    assert find(url).read_bytes() == DATA
    begun = [wanted for _, wanted in server.asked]
    assert begun[:2] == [None, None]
    assert [int(wanted[6:-1]) for wanted in begun[2:]] == [len(DATA) // 2, len(DATA) // 2 + len(DATA) // 4]
    assert waits == sorted(waits) and len(waits) == 3, "each try waits longer"


def test_a_kill_between_runs_loses_nothing(server, url, find, waits):
    server.faults = ["break", *[500] * 9]
    with pytest.raises(BadClip, match="500"):
        find(url)
    server.faults.clear()
    assert find(url).read_bytes() == DATA
    assert server.asked[-1][1] == f"bytes={len(DATA) // 2}-"


@pytest.mark.parametrize("change", ["no ranges", "new file", "no tag", "weak tag", "wrong part", "shorter"])
def test_a_file_that_changed_is_fetched_anew(server, find, waits, change):
    server.files["/v.mp4"] = b"a" * 1000
    server.tag = {"no tag": None, "weak tag": 'W/"one"'}.get(change, server.tag)
    server.faults = ["break", *[500] * 4]
    with pytest.raises(BadClip):
        find(f"{server.url}/v.mp4")
    server.files["/v.mp4"] = b"b" * (400 if change == "shorter" else 900)
    server.faults = [change] if change in ("no ranges", "wrong part") else []
    server.tag = '"two"' if change == "new file" else server.tag
    assert find(f"{server.url}/v.mp4").read_bytes() == server.files["/v.mp4"]


@pytest.mark.parametrize(("fault", "tries"), [(404, 1), (403, 1), (410, 1), (503, 5), (429, 5), (408, 5)])
def test_a_refusal_is_final_a_hiccup_is_not(server, url, find, waits, fault, tries):
    server.faults = [fault] * 9
    with pytest.raises(BadClip, match=f"v.mp4 cannot be downloaded.*{fault}"):
        find(url)
    assert len(server.asked) == tries


def test_so_many_tries_as_are_asked_for(server, url, find, waits):
    server.faults = [500] * 9
    with pytest.raises(BadClip, match="tried 2 times"):
        find(url, attempts=2)
    assert len(server.asked) == 2 and len(waits) == 1


def test_tries_that_bring_much_do_not_count(server, url, find, waits, monkeypatch):
    monkeypatch.setattr("vlfm.clips.download.retries.PROGRESS", len(DATA) // 10)
    server.faults = ["break"] * 3
    assert find(url, attempts=2).read_bytes() == DATA


def test_tries_that_bring_the_same_again_do(server, url, find, waits, monkeypatch):
    monkeypatch.setattr("vlfm.clips.download.retries.PROGRESS", len(DATA) // 10)
    server.tag = None
    server.faults = ["break"] * 99
    with pytest.raises(BadClip, match="tried 3 times"):
        find(url, attempts=3)
    assert len(server.asked) == 3


def test_a_server_may_ask_for_time(server, url, find, waits):
    server.faults = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "2"})]
    assert find(url).read_bytes() == DATA
    assert 7 < waits[0] <= 8 and 2 < waits[1] <= 4


def test_but_not_for_an_hour(server, url, find, waits):
    server.faults = [(429, {"Retry-After": "3600"})]
    with pytest.raises(BadClip, match=r"status 429.*asks to wait 3600 s"):
        find(url)
    assert waits == []


@pytest.mark.parametrize(("fault", "reason"), [("stall", "timed out|less than"), ("drip", "less than 1024 bytes")])
def test_a_server_that_is_too_slow_is_given_up(server, url, find, waits, fault, reason):
    server.faults = [fault] * 9
    with pytest.raises(BadClip, match=f"cannot be downloaded.*({reason}).*tried 2 times"):
        find(url, timeout=0.4, attempts=2)


def test_nobody_listens(find, waits):
    with pytest.raises(BadClip, match=r"http://127.0.0.1:9/v.mp4 cannot be downloaded"):
        find("http://127.0.0.1:9/v.mp4")


@pytest.mark.parametrize(
    "url", ["http://", "http://:80:80/", "http://[::1", "http://a..b/v.mp4", "http://" + "a" * 300]
)
def test_an_address_that_is_none(url, find, waits, tmp_path):
    with pytest.raises(BadClip, match="cannot be downloaded"):
        find(url)
    assert left(tmp_path) == []


def test_an_empty_answer(server, find):
    server.files["/v.mp4"] = b""
    with pytest.raises(BadClip, match=r"0 bytes"):
        find(f"{server.url}/v.mp4")


def test_a_length_that_is_never_reached(server, url, find, waits):
    server.tag = None
    server.faults = ["long"] * 9
    with pytest.raises(BadClip, match=f"{len(DATA)} of {len(DATA) + 1} bytes came|broke after {len(DATA)} bytes"):
        find(url)


@pytest.mark.parametrize("lengths", [False, "chunked"])
def test_without_a_length_the_end_is_the_end(server, url, find, lengths):
    server.lengths = lengths
    assert find(url).read_bytes() == DATA


def test_chunks_that_end_early_are_no_end(server, url, find, waits):
    server.lengths = "chunked"
    server.faults = ["break", "break"]
    assert find(url).read_bytes() == DATA
    assert len(waits) == 2 and server.asked[1][1].startswith("bytes=5")


@pytest.mark.parametrize(
    "headers", [{"Location": "http://[::1"}, {"Location": "http://h\xff\xfe/"}, {"Content-Length": "9" * 5000}]
)
def test_headers_that_are_nonsense(server, find, waits, headers):
    server.faults = [(302 if "Location" in headers else 200, headers)] * 5
    with pytest.raises(BadClip, match=r"/v.mp4 (cannot be downloaded|leads to what is no address|is empty)"):
        find(f"{server.url}/v.mp4", timeout=0.5)


# ---------------------------------------------------------------------------------------- redirects


def test_redirects_are_followed(server, url, find, waits):
    server.redirects = {"/old": "/older", "/older": url}
    server.faults = [None, None, "break"]
    assert find(f"{server.url}/old").read_bytes() == DATA
    assert [path for path, _ in server.asked] == ["/old", "/older", "/v.mp4"] * 2


def test_redirects_in_circles(server, find, waits):
    server.redirects = {"/a": "/b", "/b": "/a"}
    with pytest.raises(BadClip, match="/a leads from one address to the next, 10 times"):
        find(f"{server.url}/a")
    assert len(server.asked) == 10


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/v.mp4", "data:,x", "package:skvideo/x.mp4"])
def test_redirects_to_anything_but_the_web(server, find, target, tmp_path):
    server.redirects["/v.mp4"] = target
    with pytest.raises(BadClip, match=f"/v.mp4 leads to {target}, which is no http"):
        find(f"{server.url}/v.mp4")
    assert left(tmp_path) == [] and len(server.asked) == 1


# ------------------------------------------------------------------------------------------- checks


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256", "sha512"])
def test_a_checksum_that_is_right(server, url, find, name):
    assert find(f"{url}#{name}={hashlib.new(name, DATA).hexdigest().upper()}&size={len(DATA)}").read_bytes() == DATA


def test_what_is_for_browsers_is_left_out(server, url, find):
    assert find(f"{url}#t=10,20&foo").read_bytes() == DATA
    assert server.asked == [("/v.mp4", None)]


def test_a_checksum_that_is_wrong(server, url, find, waits, tmp_path):
    with pytest.raises(BadClip, match=f"the file's sha256 is {SHA}, not what stands after the #"):
        find(f"{url}#sha256={'0' * 64}")
    assert left(tmp_path) == ["".join(left(tmp_path))] and "".join(left(tmp_path)).endswith(".json")
    assert len(server.asked) == 1, "the same file would come again"


def test_halves_that_do_not_belong_together(server, url, find, waits):
    """A server that changed the file and kept its tag: the checksum finds out, and the whole is fetched again."""
    server.faults = ["break", *[500] * 4]
    source = f"{url}#sha256={SHA}"
    server.files["/v.mp4"] = DATA[::-1]
    with pytest.raises(BadClip):
        find(source)
    server.files["/v.mp4"] = DATA
    assert find(source).read_bytes() == DATA
    assert [wanted for _, wanted in server.asked[-2:]] == [f"bytes={len(DATA) // 2}-", None]


def test_a_size_that_is_wrong(server, url, find):
    server.files["/v.mp4"] = bytes(30_000_000)
    with pytest.raises(BadClip, match="has 30000000 bytes, not the 7 that"):
        find(f"{url}#size=7")
    assert server.sent < 20_000_000, "nobody waits for the end"


@pytest.mark.parametrize("lengths", [True, False])
def test_a_file_that_is_too_large(server, url, find, lengths, tmp_path):
    server.lengths = lengths
    with pytest.raises(BadClip, match=r"larger than 0.0001 GB \(clips.download.largest\)"):
        find(url, largest=1e-4)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.suffix == ".part") == 0


# ---------------------------------------------------------------------------------------- processes


def _find(url, folder, settings, results):
    results.put(locate.find(url, folder, 10, settings).read_bytes() == DATA)


def test_processes_that_want_the_same_file_fetch_it_once(server, url, settings, tmp_path):
    server.faults = ["break"]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    jobs = [context.Process(target=_find, args=(url, tmp_path, settings().download, results)) for _ in range(4)]
    for job in jobs:
        job.start()
    assert [results.get(timeout=20) for _ in jobs] == [True] * 4
    for job in jobs:
        job.join()
    assert len(server.asked) == 2


def test_a_folder_that_cannot_be_written(server, url, find, tmp_path):
    (tmp_path / "in").write_text("not a folder")
    with pytest.raises(VLFMError, match="in cannot hold downloads"):
        find(url)


def test_a_full_disk(server, url, find, tmp_path, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    (tmp_path / "in").mkdir()
    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    (tmp_path / "in" / f"{name}.part").symlink_to("/dev/full")
    monkeypatch.setattr(whole.Path, "unlink", lambda *_, **__: None)
    with pytest.raises(VLFMError, match=r"cannot hold downloads.*No space left"):
        find(url)
