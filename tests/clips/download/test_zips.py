"""Members of zip archives, on disk and on a real HTTP server."""

import hashlib
import io
import multiprocessing
import os
import random
import signal
import struct
import time
import zipfile

import pytest

from vlfm.clips import locate
from vlfm.clips.download import zips
from vlfm.clips.index.build import build_index
from vlfm.errors import BadClip
from vlfm.storage.manifest import read_manifest

VIDEO = random.Random(1).randbytes(300_000)
TEXT = b"the same again and again " * 4000
MANY = 2000  # members, for a directory that is larger than what is read at once


def pack(members, comment=b"", **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.comment = comment
    return buffer.getvalue()


MEMBERS = {"a/v.mp4": VIDEO, "a/t.mp4": TEXT, "a/": b"", "empty.mp4": b""}
STORED, DEFLATED = pack(MEMBERS), pack(MEMBERS, compression=zipfile.ZIP_DEFLATED)


@pytest.fixture(scope="module")
def many():
    """An archive of many members, and the bytes of its directory."""
    data = pack(
        {f"folder/{number:05d}.mp4": f"film {number} ".encode() * 50 for number in range(MANY)} | {"v.mp4": VIDEO}
    )
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return data, len(data) - archive.start_dir


@pytest.fixture
def local(tmp_path):
    """`local(data)` → the source of a member of an archive on disk: `zip:PATH!` is missing the member alone."""

    def local(data, name="a.zip"):
        (tmp_path / name).write_bytes(data)
        return f"zip:{tmp_path / name}!"

    return local


@pytest.fixture(autouse=True)
def _a_new_job():
    new_job()


def new_job():
    """Forget what a process keeps in memory."""
    zips._last.archive = None


def left(folder):
    return sorted(path.suffix for path in folder.rglob("*") if path.is_file() and path.suffix not in (".lock", ".zip"))


# ------------------------------------------------------------------------------------------ on disk


@pytest.mark.parametrize("data", [STORED, DEFLATED, b"MZ program" * 99 + DEFLATED, pack(MEMBERS, b"words" * 9000)])
def test_a_member_of_an_archive_on_disk(find, local, data, tmp_path):
    archive = local(data)
    path = find(archive + "a/v.mp4")
    assert path.read_bytes() == VIDEO and find(archive + "a/t.mp4").read_bytes() == TEXT
    assert path.parent == tmp_path / "in" and len(path.stem) == 32 and left(tmp_path) == [".video"] * 2
    path.write_bytes(b"kept")
    assert find(archive + "a/v.mp4").read_bytes() == b"kept"


def test_large_archives_have_longer_headers(find, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open("v.mp4", "w", force_zip64=True) as member:
        member.write(VIDEO)
    assert find(f"zip:{tmp_path}/a.zip!v.mp4").read_bytes() == VIDEO


def test_an_archive_that_was_replaced_is_read_anew(find, local, tmp_path):
    first = find(local(STORED) + "a/v.mp4")
    archive = local(pack({"a/v.mp4": b"another film"}))
    second = find(archive + "a/v.mp4")
    assert second != first and second.read_bytes() == b"another film"
    moment = second.stat().st_mtime_ns
    assert moment == (tmp_path / "a.zip").stat().st_mtime_ns
    second.unlink()
    time.sleep(0.01)
    assert find(archive + "a/v.mp4").stat().st_mtime_ns == moment, "clips decoded from it are found again"


@pytest.mark.parametrize(
    "name", ["../../../evil.mp4", "/etc/evil.mp4", "a\\..\\evil.mp4", "x" * 3000, "ü!|#?.mp4", "\x1b[31m"]
)
def test_names_of_members_name_no_files(find, local, name, tmp_path):
    path = find(local(pack({name: VIDEO})) + name)
    assert path.parent == tmp_path / "in" and path.read_bytes() == VIDEO
    assert left(tmp_path) == [".video"]


def test_a_name_without_a_folder_is_found_where_it_is_the_only_one(find, local, tmp_path):
    source = local(pack(MEMBERS | {"b/t.mp4": VIDEO}))
    assert find(f"{source}v.mp4").read_bytes() == VIDEO
    with pytest.raises(BadClip, match=r"no such member; do you mean a/t.mp4 or b/t.mp4\?"):
        find(f"{source}t.mp4")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("b/v.mp4", r"no such member; do you mean a/v.mp4\?"),
        ("V.mp4", r"no such member; do you mean a/v.mp4\?"),
        ("a/w.mp4", r"no such member; do you mean a/(v|t).mp4 or a/(v|t).mp4\?"),
        ("A/V.MP4", r"do you mean a/v.mp4\?"),
        ("nothing like it", "no such member among its 4"),
        ("a/", "is a folder of the archive"),
        ("empty.mp4", "0 bytes"),
    ],
)
def test_a_member_that_is_not_there(find, local, member, message, tmp_path):
    with pytest.raises(BadClip, match=message):
        find(local(STORED) + member)
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"no archive " * 100, "no zip archive"),
        (b"x", "no zip archive"),
        (STORED[:-40], "no zip archive"),
        (STORED[: len(STORED) // 2], "no zip archive"),
        (STORED.replace(VIDEO[1000:1010], bytes(10)), "cannot be taken out.*CRC-32"),
        (DEFLATED.replace(VIDEO[1000:1010], bytes(10)), "cannot be taken out"),
        (pack(MEMBERS, compression=zipfile.ZIP_LZMA), "compressed by method 14.*unpack the archive"),
        (pack(MEMBERS, compression=zipfile.ZIP_BZIP2), "compressed by method 12"),
    ],
)
def test_archives_that_cannot_be_read(find, local, data, message, tmp_path):
    with pytest.raises(BadClip, match=message):
        find(local(data) + "a/v.mp4")
    assert left(tmp_path) == []


def test_archives_that_are_not_there(find, local, tmp_path):
    for source, message in [("zip:none.zip!v.mp4", "none.zip: no such file"), (local(b"") + "v.mp4", "a.zip is empty")]:
        with pytest.raises(BadClip, match=message):
            find(source)


def directory_entry(data, **fields):
    """The archive with numbers of its first member's entry in the directory replaced."""
    at = data.index(b"PK\x01\x02")
    places = {"flags": (8, "<H"), "method": (10, "<H"), "packed": (20, "<I"), "size": (24, "<I"), "offset": (42, "<I")}
    changed = bytearray(data)
    for name, value in fields.items():
        place, form = places[name]
        struct.pack_into(form, changed, at + place, value)
    return bytes(changed)


@pytest.mark.parametrize("data", [STORED, DEFLATED])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flags": 1}, "is encrypted"),
        ({"flags": 0x41}, "is encrypted"),
        ({"method": 99}, "method 99"),
        ({"method": 9}, "method 9, and only"),
        ({"size": 1000}, "cannot be taken out.*CRC-32"),
        ({"size": 400_000}, "cannot be taken out"),
        ({"packed": 1000}, "cannot be taken out"),
        ({"offset": 5}, "cannot be taken out"),
        ({"offset": 0xFFFFFFF0}, "cannot be taken out|no zip archive"),
    ],
)
def test_archives_that_lie(find, local, data, fields, message, tmp_path):
    with pytest.raises(BadClip, match=message):
        find(local(directory_entry(data, **fields)) + "a/v.mp4")
    assert left(tmp_path) == []


def test_a_bomb_is_not_unpacked(find, local, tmp_path):
    bomb = pack({"v.mp4": bytes(20_000_000)}, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 30_000
    with pytest.raises(BadClip, match=r"larger than 0.01 GB \(clips.download.largest\)"):
        find(local(bomb) + "v.mp4", largest=0.01)
    with pytest.raises(BadClip, match="CRC-32"):
        find(local(directory_entry(bomb, size=5000)) + "v.mp4", largest=0.01)
    assert left(tmp_path) == []


def test_hostile_directories(find, local):
    """Bytes of the directory replaced at random: a member is right, or a bad clip."""
    dice = random.Random(5)
    small = pack({"a/v.mp4": TEXT, "b.mp4": b"b"}, compression=zipfile.ZIP_DEFLATED)
    begins, outcomes = small.index(b"PK\x01\x02"), []
    for _ in range(150):
        data = bytearray(small)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(begins, len(data))] = dice.randrange(256)
        try:
            outcomes.append(find(local(bytes(data)) + "a/v.mp4").read_bytes() == TEXT)
        except BadClip:
            outcomes.append(None)
    assert False not in outcomes and outcomes.count(None) > 50 and outcomes.count(True) > 10


# -------------------------------------------------------------------------------------- on a server


def test_only_the_directory_and_the_member_are_fetched(server, find, many):
    data, directory = many
    server.files["/a.zip"] = data
    assert find(f"zip:{server.url}/a.zip!v.mp4").read_bytes() == VIDEO
    assert directory > zips.END
    assert server.sent <= 1 + directory + len(VIDEO) + zips.HEADER
    assert len(server.asked) == 4


def test_a_thousand_members_cost_one_directory(server, find, many):
    data, directory = many
    server.files["/a.zip"] = data
    for number in range(3):
        new_job()
        for member in range(20):
            path = find(f"zip:{server.url}/a.zip!folder/{number * 20 + member:05d}.mp4")
            assert path.read_bytes().startswith(f"film {number * 20 + member} ".encode())
    assert len(server.asked) <= 3 + 60
    assert server.sent <= directory + 60 * (600 + zips.HEADER)


def _find(source, folder, settings):
    locate.find(source, folder, 10, settings)


def test_jobs_at_once_fetch_one_directory(server, many, settings, tmp_path):
    server.files["/a.zip"], directory = many
    context = multiprocessing.get_context("fork")
    sources = [f"zip:{server.url}/a.zip!folder/{number:05d}.mp4" for number in range(4)]
    jobs = [context.Process(target=_find, args=(source, tmp_path, settings().download)) for source in sources]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(20)
    assert [job.exitcode for job in jobs] == [0] * 4
    assert server.sent < 1.2 * directory and len(server.asked) == 3 + 4


def test_one_process_that_stays_reads_on_in_one_connection(server, find, waits):
    server.files["/a.zip"] = DEFLATED
    server.faults = [None, None, "break", 503]
    assert find(f"zip:{server.url}/a.zip!a/v.mp4").read_bytes() == VIDEO
    assert len(waits) == 2


@pytest.mark.parametrize("job", ["the same", "another"])
@pytest.mark.parametrize("tag", ['"two"', None])
def test_an_archive_that_was_replaced_on_the_server(server, find, job, tag):
    server.tag = '"one"' if tag else None
    server.files["/a.zip"] = STORED
    assert find(f"zip:{server.url}/a.zip!a/t.mp4").read_bytes() == TEXT
    if job == "another":
        new_job()
    server.tag = tag
    server.files["/a.zip"] = pack({"b.mp4": b"b" * 999, "a/v.mp4": b"film" * 2000})
    assert find(f"zip:{server.url}/a.zip!a/v.mp4").read_bytes() == b"film" * 2000
    assert find(f"zip:{server.url}/a.zip!b.mp4").read_bytes() == b"b" * 999


def test_a_server_without_ranges(server, find, tmp_path):
    server.files["/a.zip"], server.ranges = STORED, False
    with pytest.raises(
        BadClip, match=r"gives no parts of a file, so no member.*download the archive, and give its path"
    ):
        find(f"zip:{server.url}/a.zip!a/v.mp4")
    assert left(tmp_path) == []


def test_what_the_server_has_is_no_archive(server, find, tmp_path):
    server.files["/a.zip"] = b"<html>" * 50_000
    with pytest.raises(BadClip, match="no zip archive"):
        find(f"zip:{server.url}/a.zip!a/v.mp4")
    assert left(tmp_path) == [] and server.sent < 70_000


def split(data, *cuts):
    return [data[start:stop] for start, stop in zip((0, *cuts), (*cuts, len(data)), strict=True)]


@pytest.mark.parametrize("where", ["server", "disk", "both"])
def test_split_archives(server, find, tmp_path, where):
    """Cuts within the video, within a header, and within the directory."""
    pieces = split(DEFLATED, 200_000, DEFLATED.index(b"PK\x03\x04", 10) + 7, len(DEFLATED) - 90)
    names = []
    for number, piece in enumerate(pieces):
        if where == "server" or (where == "both" and number % 2):
            server.files[f"/part{number}"] = piece
            names.append(f"{server.url}/part{number}")
        else:
            (tmp_path / f"part{number}").write_bytes(piece)
            names.append(str(tmp_path / f"part{number}"))
    for job in range(2):
        assert find(f"zip:{'|'.join(names)}!a/v.mp4", tmp_path / f"in{job}").read_bytes() == VIDEO
        assert find(f"zip:{'|'.join(names)}!a/t.mp4", tmp_path / f"in{job}").read_bytes() == TEXT
        new_job()
    with pytest.raises(BadClip, match=r"no zip archive|cannot be taken out"):
        find(f"zip:{'|'.join(reversed(names))}!a/v.mp4", tmp_path / "in")


def test_a_kill_leaves_nothing_that_is_taken_for_whole(server, find, settings, tmp_path):
    server.files["/a.zip"] = STORED
    source = f"zip:{server.url}/a.zip!a/v.mp4"
    server.faults = [None, None, "stall"]
    job = multiprocessing.get_context("fork").Process(target=_find, args=(source, tmp_path / "in", settings().download))
    job.start()
    until = time.monotonic() + 10
    while (".part" not in left(tmp_path) or len(server.asked) < 3) and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(job.pid, signal.SIGKILL)
    job.join()
    assert ".part" in left(tmp_path) and ".video" not in left(tmp_path)
    assert find(source).read_bytes() == VIDEO
    assert left(tmp_path) == [".directory", ".video"]


# ------------------------------------------------------------------------------------ from the CSV


def test_from_the_csv_to_clips(server, video, settings, tmp_path, decode):
    film = video("carphone_pristine").read_bytes()
    server.files["/a.zip"] = pack({"x/c.mp4": film})
    (tmp_path / "here.zip").write_bytes(server.files["/a.zip"])
    sources = [f"zip:{server.url}/a.zip!x/c.mp4", "zip:here.zip!x/c.mp4"]
    csv = tmp_path / "clips.csv"
    csv.write_text("".join(["source,start,end,caption\n", *(f"{source},1,1.5,a man\n" for source in sources)]))
    build_index(settings(index=str(csv)), tmp_path / "m.parquet", tmp_path / "l.parquet", tmp_path / "s.json")
    assert server.asked == [], "one window is indexed without it"
    names = [clip.source for clip in read_manifest(tmp_path / "m.parquet")]
    assert names == [sources[0], f"zip:{tmp_path}/here.zip!x/c.mp4"]
    frames = [decode(name, [1.0])[0][1.0].frames for name in names]
    digests = {hashlib.sha256(each.tobytes()).hexdigest() for each in frames}
    assert len(digests) == 1 and len(frames[0]) == 12
