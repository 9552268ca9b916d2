"""What runs in the killable child: `python -m vlfm.clips.decode_worker`. It reads names of task files, one a line, from
stdin, and prints reports as lines of JSON.

Reports: `{}` a sign of life, `{"clip": …}` or `{"cut": …}` a result, `{"failed": …}` the decoder is not to be
trusted here, `{"fatal": …}` the disk is full, `{"end": true}` all done. Finished clips go straight to disk,
so memory holds one window of frames. No torch and no shell here.
"""

import contextlib
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlfm.clips.center_crop import crop
from vlfm.clips.shots import CutDetector
from vlfm.clips.video_files import DecordFrames, FFmpegFrames, Media, Suspicious, damage, die_with_parent, said
from vlfm.clips.windows import choose_frames, nearest, slack
from vlfm.errors import BadClip
from vlfm.storage.files import atomic_path

MEMORY = 8 << 30  # bytes of data a decoding process may hold: decoders that run away fail instead of swapping
RUNS = 3  # zlib's Z_RLE
SEEK = 60.0  # seconds of footage worth skipping by a seek instead of decoding it


def main() -> None:
    die_with_parent()
    _limit_memory()
    for order in sys.stdin:
        task = json.loads(Path(order.removesuffix("\n")).read_text())
        with contextlib.closing(_Errors()) as errors:
            for report in {"decode": _decode, "cuts": _cuts}[task["do"]](task, errors):
                print(json.dumps(report), flush=True)
        print(json.dumps({"end": True}), flush=True)


def _limit_memory() -> None:
    if sys.platform != "linux":
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard == resource.RLIM_INFINITY or hard > MEMORY:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, hard))


class _Errors:
    """What the C libraries under decord print: the only place where they admit to damaged frames."""

    def __init__(self) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        self._read, self._write, self._seen = read, write, ""

    def __enter__(self) -> "_Errors":
        self._kept = os.dup(2)
        os.dup2(self._write, 2)
        return self

    def __exit__(self, *_) -> None:
        os.dup2(self._kept, 2)
        os.close(self._kept)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def first(self) -> str | None:
        """The first complaint so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._read, 65536):
                self._seen = (self._seen + data.decode(errors="replace"))[:1000]
        return said(self._seen.strip().splitlines()[0]) if self._seen.strip() else None


# ----------------------------------------------------------------------------------------- decoding


class Window:
    """The frames around one clip's window, as they come by."""

    def __init__(self, start: float, duration: float, step: float) -> None:
        self.numbers: list[int] = []
        self.shown: list[float] = []
        self.frames: list[np.ndarray] = []
        self._start, self._length = start, duration + slack(duration) - step

    def add(self, number: int, shown: float, frame: np.ndarray) -> None:
        self.numbers.append(number)
        self.shown.append(shown)
        self.frames.append(frame)

    @property
    def complete(self) -> bool:
        """Whether a frame past the window has come: no later one can matter."""
        origin = self.shown[nearest(self.shown[:2], self._start)]
        return self.shown[-1] - max(origin, self._start) > self._length


def collect(
    frames: Iterable[tuple[float, np.ndarray]],
    clips: list[dict[str, Any]],
    duration: float,
    step: float,
    shape: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[dict[str, Any], Window] | None]:
    """Gather the frames of all windows in one pass over a source.

    Args:
        frames: times in seconds and frames, in order.
        clips: with `start`, sorted by it.
        duration, step: T and T/N, seconds.
        shape: makes the frame that is kept of one that comes.

    Yields:
        (clip, window) as soon as a window is complete or the source has ended; None as a sign of life.
    """
    waiting, active = list(clips), []
    previous, spoke = None, time.monotonic()
    for number, (shown, frame) in enumerate(frames):
        while waiting and shown > waiting[0]["start"]:
            clip = waiting.pop(0)
            active.append((clip, Window(clip["start"], duration, step)))
            if previous is not None:
                active[-1][1].add(*previous[:2], shape(previous[2]))
        if active:
            small = shape(frame)
            for _, window in active:
                window.add(number, shown, small)
            yield from (item for item in active if item[1].complete)
            active = [item for item in active if not item[1].complete]
        if not active and not waiting:
            return
        previous = (number, shown, frame)
        if time.monotonic() - spoke > 0.2:
            spoke = time.monotonic()
            yield None
    for clip in waiting:
        active.append((clip, Window(clip["start"], duration, step)))
        if previous is not None:
            active[-1][1].add(*previous[:2], shape(previous[2]))
    yield from active


def _decode(task: dict[str, Any], errors: _Errors) -> Iterator[dict[str, Any]]:
    """Decode clips of one source with one decoder.

    Task: `file`, `media`, `decoder`, `reported` (frames the container announces, or null), `fps`, `duration`,
    `count`, `least`, `height`, `width`, `image`, `clips`: [{clip_id, source, start, end, caption, piece}] sorted by
    start.
    """
    media = Media(**task["media"])
    if task["decoder"] == "decord":
        with errors:
            try:
                frames = DecordFrames(task["file"], media)
                yield {"reported": frames.reported}
                small = partial(crop, aspect=media.aspect, height=task["height"], width=task["width"])
                yield from _emit(frames, small, task["clips"], task | {"reported": frames.reported}, errors.first)
            except Suspicious as trouble:
                yield {"failed": str(trouble)}
        return
    for clips in passes(task["clips"]):
        since = clips[0]["start"] - 1 if clips[0]["start"] > SEEK else 0.0
        frames = FFmpegFrames(task["file"], media, since, size=(task["height"], task["width"]))
        complaint = partial(_first_damage, frames)
        for report in _emit(frames, lambda frame: frame, clips, task, complaint):
            if "bad" in report and frames.reshaped is not None:
                report["bad"] += f" (at {frames.reshaped:.3f} s the picture changes to another shape)"
            yield report


def _first_damage(frames: FFmpegFrames) -> str | None:
    return next(iter(frames.damaged), None)


def passes(clips: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group clips, sorted by start, so that between groups there is enough footage to be worth a seek."""
    groups: list[list[dict[str, Any]]] = []
    for clip in clips:
        if groups and clip["start"] - groups[-1][-1]["start"] <= SEEK:
            groups[-1].append(clip)
        else:
            groups.append([clip])
    return groups


def _emit(
    frames: Iterable[tuple[float, np.ndarray]],
    shape: Callable[[np.ndarray], np.ndarray],
    clips: list[dict[str, Any]],
    task: dict[str, Any],
    complaint: Callable[[], str | None],
) -> Iterator[dict[str, Any]]:
    """Turn complete windows into finished clips on disk, one report each; `shape` as in `collect`."""
    media = Media(**task["media"])
    trusted = task["decoder"] == "ffmpeg"
    step = task["duration"] / task["count"]
    began = time.monotonic()
    for item in collect(frames, clips, task["duration"], step, shape):
        if item is None:
            complaint()
            yield {}
            continue
        clip, window = item
        try:
            chosen, times = choose_frames(window.shown, clip["start"], task["duration"], task["count"], task["least"])
            pictures = [window.frames[index] for index in chosen]
            if not trusted:
                _look_for_repeats(pictures, times, complaint())
            elif complaint() and (found := damage(task["file"], media, clip["start"], task["duration"])):
                raise BadClip(f"the video is damaged in or just before the window ({found}); replace the file")
        except BadClip as trouble:
            if not trusted:  # ffmpeg has the last word on what a source lacks
                raise Suspicious(str(trouble)) from trouble
            yield {"clip": clip["clip_id"], "bad": str(trouble), "seconds": time.monotonic() - began}
            began = time.monotonic()
            continue
        early = clip["start"] <= SEEK  # after a seek nobody knows a frame's number
        info = {
            "clip_id": clip["clip_id"],
            "source": clip["source"],
            "start": clip["start"],
            "end": clip["end"],
            "caption": clip["caption"],
            "duration": task["duration"],
            "fps": task["fps"],
            "height": task["height"],
            "width": task["width"],
            "times": times.tolist(),
            "shown": [window.shown[index] for index in chosen],
            "decoder": task["decoder"],
            "source_fps": media.fps,
            "frames_reported": task["reported"] if early else None,
            "frames_decoded": window.numbers[chosen[-1]] + 1 if early else None,
        }
        seconds = time.monotonic() - began
        try:
            write_piece(Path(clip["piece"]), clip["clip_id"], pictures, info, task["image"], seconds)
        except OSError as trouble:
            yield {"fatal": str(trouble)}
            return
        yield {"clip": clip["clip_id"], "seconds": seconds}
        began = time.monotonic()


def _look_for_repeats(pictures: list[np.ndarray], times: np.ndarray, complaint: str | None) -> None:
    if complaint:
        raise Suspicious(f"decord's libraries complain: {complaint}")
    for index in range(1, len(pictures)):
        if np.array_equal(pictures[index - 1], pictures[index]):
            raise Suspicious(f"decord gave the same picture at {times[index - 1]:.3f} s and {times[index]:.3f} s")


def write_piece(
    path: Path, clip_id: str, pictures: list[np.ndarray], info: dict[str, Any], image: str, seconds: float
) -> None:
    """Write one finished clip as a tar of its own, atomically; `decode_shard` copies it into the shard."""
    members: dict[str, bytes] = {}
    for index, picture in enumerate(pictures):
        buffer = io.BytesIO()
        if image == "png":
            # Level 6 takes four times as long, longer than decoding, and saves 5 to 15 %. Runs alone, without a search
            # for repeats, make smaller files of films than level 1 does with it, in two thirds of the time.
            Image.fromarray(picture).save(buffer, "PNG", compress_level=1, compress_type=RUNS)
        else:
            Image.fromarray(picture).save(buffer, "JPEG", quality=95, subsampling=0)
        members[f"{index:03d}.{image}"] = buffer.getvalue()
    members["txt"] = info["caption"].encode()
    members["json"] = json.dumps(info, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
    members["seconds.json"] = json.dumps(round(seconds, 3)).encode()
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(f"{clip_id}.{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


# --------------------------------------------------------------------------------------------- cuts


def _cuts(task: dict[str, Any], errors: _Errors) -> Iterator[dict[str, Any]]:
    """Find the hard cuts of a stretch of a source.

    Task: `file`, `media`, `start`, `end` (seconds or null), `threshold`. Reports `{"cut": seconds}`, the
    first frame of a new shot, and last `{"first": seconds, "last": seconds}`, what the stretch really covers.
    """
    media = Media(**task["media"])
    start, end = task["start"], task["end"]
    since = start - 1 if start > SEEK else 0.0
    begins = CutDetector(task["threshold"])
    first = last = None
    interval, spoke = 1 / (media.fps or 25), time.monotonic()
    for shown, frame in FFmpegFrames(task["file"], media, since, width=CutDetector.WIDTH):
        if end is not None and shown >= end:
            last = end
            break
        if last is not None:
            interval = shown - last
        first, last = shown if shown < start or first is None else first, shown
        if shown >= start and begins(frame):
            yield {"cut": float(shown)}
        if time.monotonic() - spoke > 0.2:
            spoke = time.monotonic()
            yield {}
    if last is not None and last != end:
        last = last + interval if end is None else min(end, last + interval)
    yield {"first": first, "last": last}


if __name__ == "__main__":
    main()
