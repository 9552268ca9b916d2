"""Moving digits as a data set like any other: video files, and the CSV that lists their clips."""

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlfm import config
from vlfm.clips.datasets.csv import REQUIRED
from vlfm.clips.decode_worker import SEEK
from vlfm.clips.moving_digits import drawing
from vlfm.clips.moving_digits.choice import Take, choose_takes
from vlfm.clips.moving_digits.drawing import draw_frames, draw_ways, handwriting
from vlfm.progress import progress
from vlfm.storage.files import write_bytes
from vlfm.storage.fingerprints import fingerprint
from vlfm.storage.pictures import write_mp4
from vlfm.words import plural

MEMORY = 256 << 20  # bytes of frames that one file may hold: they are encoded at once


def make_digits(clips: config.Clips, seed: int, output: Path) -> None:
    """Draw the clips of moving digits that `clips.digits` asks for.

    Many clips lie one after another in a file: opening one costs more than decoding a clip. A file lasts a minute at
    most, so that it is decoded in one pass without seeks; each clip begins with a key frame. Files are named by what is
    in them: those that are there already are not made again, and whatever is drawn otherwise is another source.

    Args:
        clips: the settings: one length, one square size, the digits.
        seed: of every choice.
        output: the CSV, written last: source, start, end (seconds), caption, split. The files lie beside it, and those
            beside it that it does not list are removed.

    Raises:
        VLFMError: if `clips.digits` asks for what there is not, or ffmpeg fails.
    """
    takes = choose_takes(clips.digits, seed)
    times = np.arange(clips.num_frames_of(clips.shortest)) / clips.fps
    side, wander = clips.sizes[0][0], clips.digits.wander
    length = max(1, min(int(SEEK / clips.shortest + 1e-9), MEMORY // (3 * side**2 * len(times))))
    reels = [
        (split, some[first : first + length]) for split, some in takes.items() for first in range(0, len(some), length)
    ]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*REQUIRED, "split"))
    names = set()
    for split, reel in progress(reels, what="digits", unit="file"):
        name = f"{_identity(reel, clips.fps, len(times), side, wander)}.mp4"
        names.add(name)
        if not (output.parent / name).exists():
            _write_reel(output.parent / name, reel, clips.fps, times, side, wander)
        for place, take in enumerate(reel):
            start = round(place * len(times) / clips.fps, 6)
            writer.writerow((name, start, round(start + clips.shortest, 6), take.caption, split))
    write_bytes(output, text.getvalue().encode())
    _remove_others(output.parent, names)
    print(f"{output}: {plural(sum(map(len, takes.values())), 'clip')} in {plural(len(names), 'file')}")


def _identity(reel: Sequence[Take], fps: float, count: int, side: int, wander: float) -> str:
    return fingerprint(
        {
            "version": drawing.VERSION,
            "fps": fps,
            "frames": count,
            "side": side,
            "wander": wander,
            "takes": [[take.caption, take.images, take.key] for take in reel],
        }
    )


def draw_take(take: Take, times: np.ndarray, side: int, wander: float) -> np.ndarray:
    """The frames of one clip, uint8 (N, side, side, 3), at `times`, (N,) seconds from 0 on; see `draw_ways`."""
    ink, _ = handwriting()
    ways = draw_ways(take.digits, times, np.random.default_rng(take.key), wander)
    return draw_frames(take.digits, [ink[image] for image in take.images], ways, side)


def _write_reel(path: Path, reel: Sequence[Take], fps: float, times: np.ndarray, side: int, wander: float) -> None:
    frames = np.concatenate([draw_take(take, times, side, wander) for take in reel])
    # All of the colour, which thin strokes need.
    write_mp4(path, frames, fps, pixels="yuv444p", group=len(times))


def _remove_others(folder: Path, names: set[str]) -> None:
    others = [path for path in folder.glob("*.mp4") if path.name not in names]
    if others:
        print(f"removing {plural(len(others), 'file')} of other digits from {folder}", file=sys.stderr)
    for path in others:
        path.unlink()
