"""Bad and odd files among good ones, through the stages as users run them.

What is good has ffmpeg's own frames at ffmpeg's own times, whatever lies beside it. What is bad is in a ledger, with a
reason that says what is wrong. Nothing hangs, and the process that runs the stage stays small.
"""

import csv
import io
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.data.hostile import CASES, LENGTH, PHONE, SOME, WIDTH_CASES, Case, Corpus, true_frames, true_squares
from vlfm.clips.index.split_videos import split_video
from vlfm.clips.shards import read_clips
from vlfm.clips.video_files import _packets, damage, probe
from vlfm.errors import VLFMError
from vlfm.storage.ledger import read_ledger
from vlfm.storage.manifest import Clip, read_manifest, write_manifest

# A process of its own: what it needs at most is then its own, and a crash does not take the tests with it.
JOB = """
import json, re, sys
from pathlib import Path
from vlfm import config
from vlfm.clips.decode import decode_shard
from vlfm.clips.index.build import build_index
from vlfm.storage.files import read_json
from vlfm.storage.ledger import write_ledger
from vlfm.storage.manifest import Clip, read_manifest, write_manifest
from vlfm.storage.tar import write_tar

def most():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

folder, settings = Path(sys.argv[1]), sys.argv[2]
clips = config.load(settings).clips.model_copy(update=json.loads(sys.argv[3]))
write_ledger(folder / "none.parquet", [])  # what these load is loaded then
write_tar(folder / "none.tar", [])
write_manifest(folder / "none", [Clip("0", "s", 0.0, 0.5, "c", 2, 0, 8, 8)])
read_manifest(folder / "none", 0)
before = most()
build_index(clips, folder / "manifest.parquet", folder / "index.parquet", folder / "shards.json")
for name in read_json(folder / "shards.json"):
    paths = folder / f"{name}.tar", folder / f"{name}.parquet"
    decode_shard(clips, folder / "manifest.parquet", int(name), *paths, folder / "sources")
print(json.dumps({"before": before, "after": most()}))
"""
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    return Corpus(tmp_path_factory.mktemp("hostile"))


@pytest.fixture
def stage(corpus, tmp_path):
    """`stage(cases, seconds, **settings)` checks what comes, and returns by how many megabytes the process grew."""

    def run(cases, seconds, **settings):
        index, text, lines = corpus.folder / f"{tmp_path.name}.csv", io.StringIO(newline=""), {}
        writer = csv.writer(text)
        writer.writerow(["source", "start", "end", "caption"])
        for case in cases:
            lines[text.getvalue().count("\n") + 1] = case  # there are names of several lines
            end = None if case.start is None else case.start + LENGTH
            writer.writerow([corpus.source(case), case.start, end, f"../../{case.source}\0.png"])
        index.write_text(text.getvalue(), encoding="utf-8", newline="")
        settings = {"index": str(index), "max_bad": 1.0, "timeout": 60.0, "shard_size": 1000} | settings
        done = subprocess.run(
            [sys.executable, "-c", JOB, str(tmp_path), str(ROOT / "config.yaml"), json.dumps(settings)],
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        memory = json.loads(done.stdout.splitlines()[-1])
        plan = {clip.clip_id: clip for clip in read_manifest(tmp_path / "manifest.parquet")}
        good = {}
        for path in tmp_path.glob("0*.tar"):
            for clip in read_clips(path):
                good.setdefault(plan[clip.clip_id].row, []).append(clip)
        ledger = [row for path in tmp_path.glob("*.parquet") if path.stem != "manifest" for row in read_ledger(path)]
        bad = {row.row: row.reason for row in ledger if row.status == "bad"}
        check(corpus, lines, good, bad)
        return memory["after"] - memory["before"]

    return run


def center(frame: np.ndarray, aspect: float) -> tuple[int, int, int, int]:
    """Columns, rows, left and top of the square in the middle of a frame as it is shown."""
    height, width = frame.shape[:2]
    across, down = (math.floor(side + 0.5) for side in (min(width, height / aspect), min(height, width * aspect)))
    return across, down, *(left - left % 2 for left in ((width - across) // 2, (height - down) // 2))


def fitted(frame: np.ndarray, aspect: float, side: int) -> np.ndarray:
    """The centre of a frame as it is shown, as a square: in words of Pillow alone."""
    across, down, left, top = center(frame, aspect)
    box = (left, top, left + across, top + down)
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS, box=box))


def check(corpus: Corpus, cases: dict[int, Case], good: dict, bad: dict) -> None:
    """Every case is what it should be: the cases, the clips and the reasons by line of the CSV."""
    truths: dict[str, tuple] = {}
    wrong = []
    for line, case in cases.items():
        if case.reason is not None:
            if not re.search(f"(?s)^row {line}: .*{case.reason}", bad.get(line, "not bad")):
                wrong.append(f"{case}: {bad.get(line, 'not bad')}")
            continue
        if line not in good or line in bad:
            wrong.append(f"{case}: {bad.get(line, 'not there')}")
            continue
        if case.source not in truths:
            file = corpus.file(case.source)
            shown, frames, aspect = true_frames(file)
            squares = true_squares(file, *frames.shape[1:3], center(frames[0], aspect), good[line][0].frames.shape[1])
            truths[case.source] = (shown, frames, aspect, squares)
        wrong += [f"{case}: {each}" for clip in good[line] for each in differences(clip, case, *truths[case.source])]
    assert not wrong, "\n".join(wrong)


def differences(
    clip, case: Case, shown: np.ndarray, frames: np.ndarray, aspect: float, squares: np.ndarray
) -> list[str]:
    """How a clip differs from the frames of its file."""
    info = clip.info
    shown = shown - shown[0]
    start = info["start"]
    places = [int(np.abs(shown - moment).argmin()) for moment in info["shown"]]
    found = []
    if np.abs(shown[places] - info["shown"]).max() > 1e-6:
        found.append(f"no frame is shown at {info['shown']}")
    interval = float(np.median(np.diff(shown)))
    if abs(info["shown"][0] - start) > interval / 2 + 1e-4:
        found.append(f"begins at {info['shown'][0]}, not {start}")
    if len(places) == 12:
        origin, wanted = info["shown"][0], start + np.arange(12) / 24
    else:  # all there are, each where it is shown
        origin = start
        wanted = shown[(shown - start + 1 / 24 > 0) & (shown - start + 1 / 24 <= LENGTH + 1e-3)]
    if len(wanted) != len(places) or np.abs(np.array(info["shown"]) - wanted).max() > 2.5 * interval:
        found.append(f"its frames are too far from where they should be: {info['shown']}")
    times = np.minimum(np.array(info["shown"]) - origin + 1 / 24, LENGTH)
    if np.abs(times - clip.times).max() > 1e-6:
        found.append(f"clip times {clip.times} are not those of {info['shown']}")
    if len(squares) != len(frames):
        return [*found, f"{len(squares)} squares of {len(frames)} frames"]
    truth = np.stack([fitted(frames[place], aspect, clip.frames.shape[1]) for place in places])
    far = np.abs(clip.frames.astype(int) - truth)
    if info["decoder"] == "decord":
        if far.max() > case.decord:
            found.append(f"decord: frames differ by {far.max()} from ffmpeg's")
        return found
    if not np.array_equal(clip.frames, squares[places]):
        found.append(f"frames differ by {np.abs(clip.frames.astype(int) - squares[places]).max()} from ffmpeg's")
    # Pillow's, of colours that ffmpeg converted in its usual way; it spreads four pixels over a clip in its own way.
    if far.mean() > (4 if frames.shape[1:3] == (2, 2) else 3):
        found.append(f"frames differ by {far.mean():.1f} in the mean from the middle of ffmpeg's")
    return found


def among(cases: list[Case]) -> list[Case]:
    """The cases with good clips before, between and after them."""
    good = [Case(PHONE, start) for start in np.arange(0, 3.5, 0.2).round(1).tolist()]
    every = max(4, len(cases) // (len(good) - 2))
    mixed = []
    for index, case in enumerate(cases):
        if index % every == 0 and len(good) > 1:
            mixed.append(good.pop(0))
        mixed.append(case)
    return [*mixed, good.pop(0)]


@LINUX
@pytest.mark.parametrize("decoder", ["ffmpeg", "decord"])
def test_bad_files_cost_nothing_but_themselves(stage, decoder):
    """Some of each kind; all of them are a slow test."""
    assert stage(among(SOME), 120, decoder=decoder) < 50


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["decord", "ffmpeg"])
def test_the_whole_corpus(stage, decoder):
    """8K among it, of which a frame has 100 MB."""
    assert len({case.source for case in CASES}) > 100
    assert stage(among(CASES), 1800, decoder=decoder) < 80


@LINUX
@pytest.mark.slow
def test_every_width_from_16_to_130(stage):
    """Rows of 3 · width bytes that are padded to 32 or 64: colours out of place, four of them a pixel."""
    stage(WIDTH_CASES, 1800, decoder="decord")


def test_split_leaves_out_what_is_no_video(corpus, settings, tmp_path, capsys):
    """A folder with all sorts of things in it, one under a name that no text can hold."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("base.mp4", "page.mp4", "sound.mp4", "list.mp4", "loop.mp4"):
        (folder / name).symlink_to(corpus.path(name))
    (folder / os.fsdecode(b"\xff\xfe.mp4")).symlink_to(corpus.path("base.mp4"))
    os.mkfifo(folder / "fifo.mp4")
    split_video([folder], tmp_path / "windows.csv", settings())
    with open(tmp_path / "windows.csv", newline="", encoding="utf-8") as handle:
        assert {row["source"] for row in csv.DictReader(handle)} == {str(folder / "base.mp4")}
    told = capsys.readouterr().err
    for words in (
        "page.mp4 is not a video",
        "sound.mp4 holds sound",
        "list.mp4 is",
        r"\xff\xfe.mp4': its name is not UTF-8",
    ):
        assert words in told


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/b", "", "a.b", "a\n"])
def test_an_id_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    write_manifest(tmp_path / "m.parquet", [Clip(name, PHONE, 0.0, 0.5, "c", 2, 0, 96, 96)])
    with pytest.raises(VLFMError, match="is no name for a file"):
        read_manifest(tmp_path / "m.parquet")


def test_damage_in_a_transport_stream_is_told_where_it_is(corpus):
    """Packets are lost between two key frames: windows before them, and from the second one on, are good."""
    path = corpus.path("gap.ts")
    media = probe(path, 60)
    found = {start: damage(path, media, start, LENGTH) for start in (0.3, 0.6, 1.2, 1.5, 2.3)}
    assert [start for start, complaint in found.items() if complaint] == [1.2, 1.5], found
    assert found[1.2] == found[1.5] == "Packet corrupt at 1.320 s"


def test_where_transport_streams_were_put_together_nothing_is_lost(corpus):
    """The reader of the container takes a packet before it for corrupt."""
    path = corpus.path("segments.ts")
    media = probe(path, 60)
    assert any(packet.corrupt for packet in _packets(path, media, {}, 3.0))
    assert [damage(path, media, start, LENGTH) for start in (0.3, 0.6, 0.9, 1.0, 2.0)] == [None] * 5


@pytest.mark.slow
def test_a_far_window_of_a_transport_stream_is_found(make, decode):
    """A seek in it ends between two key frames, ten seconds apart here: what comes first is seconds too late."""
    options = ("-t", "76", "-vf", "scale=64:48", "-c:v", "libx264", "-g", "250", "-sc_threshold", "0")
    path = make("far.ts", *options, before=["-stream_loop", "-1"])
    clips, rows = decode(path, [1.2, 65.3])
    assert [row.reason for row in rows] == ["", ""]
    shown, frames, aspect = true_frames(path)
    squares = true_squares(path, *frames.shape[1:3], center(frames[0], aspect), 96)
    for start, clip in clips.items():
        assert not differences(clip, Case("far.ts", start), shown, frames, aspect, squares)
