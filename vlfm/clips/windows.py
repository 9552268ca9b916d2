"""Which frames make a clip, and where a long take is cut: pure arithmetic on times, no files.

Clip time runs from 0 to T, the paper's frame τ = 1 … N sits at τT/N. Real sources have other frame rates,
so a clip holds the frames *nearest* to those instants, together with the instants they were really shown at. A source
with fewer frames a second gives a clip fewer frames.
"""

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np

from vlfm.errors import BadClip
from vlfm.words import plural

TIE = 1e-5  # seconds; float32 timestamps (decord) must not decide which of two equally near frames is taken


def slack(duration: float) -> float:
    """How far past T a frame may lie and still count as lying at T, in seconds.

    Matroska rounds times to 1 ms, and 23.976 frames a second, the rate of film, drifts by 1/1000 against 24:
    without the slack the most common sources would miss their last frame by less than a tick.
    """
    return 0.001 + 0.001 * duration


def nearest(values: Sequence[float], instant: float) -> int:
    """Index of the value nearest to `instant` in an increasing sequence; the earlier one of a tie."""
    distance = np.abs(np.asarray(values, dtype=np.float64) - instant)
    return int(np.argmax(distance <= distance.min() + TIE))


def choose_frames(
    shown: Sequence[float], start: float, duration: float, count: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the frames of a clip: N where the source has as many in the window, else the fewer that it has.

    With p0 the presentation time of the frame nearest to `start`, a frame shown at p has clip time
    t = p − p0 + T/N. Instant τT/N takes the frame nearest to it among those with t ≤ T that leave a frame
    for every later instant.

    Where that leaves an instant without a frame of its own, as of sources with fewer frames a second, a clip has all
    the frames of its window; if they are more than N but uneven, those that are nearest to an instant. Clip time is
    then t = p − start + T/N: p0 may lie so far from `start` that counting from it would move what is shown. A path
    does not care how many frames it was fitted to (Φ of Eq. 1), only that their times are true.

    Args:
        shown: strictly increasing presentation times, seconds in the source, shape (frames,); all frames
            around the window, from the one before `start` to the one after start + T where there is one.
        start: seconds in the source.
        duration: T, seconds.
        count: N.
        least: frames that a clip has at the least. No gap may be longer than so many, spread evenly, would leave.

    Returns:
        indices into `shown`, int64 (n,), strictly increasing, n ≤ N; clip times, float64 (n,), in (0, T].

    Raises:
        BadClip: no frame near `start`, the source ends too early, or it has too few frames in the window.
    """
    shown = np.asarray(shown, dtype=np.float64)
    step = duration / count
    if not len(shown):
        raise BadClip("the source has no frames")
    origin = nearest(shown, start)
    inside = shown[origin:]
    times = inside - inside[0] + step
    times = times[times <= duration + slack(duration)]
    interval = float(np.median(np.diff(times))) if len(times) > 1 else step
    reach = 1.5 * max(interval, step)
    if abs(shown[origin] - start) > reach:
        where = "ends" if shown[origin] < start else "begins"
        raise BadClip(f"the window starts at {start:.3f} s, the source {where} at {shown[origin]:.3f} s; correct start")
    if len(inside) == len(times) and duration - times[-1] > reach:
        raise BadClip(
            f"the last frame of the source is shown at {inside[-1]:.3f} s, {duration - times[-1]:.3f} s too "
            f"early for a window of {duration:g} s from {start:.3f} s (cut short, or damaged); "
            "move the window or replace the file"
        )
    room = len(times) - count + np.arange(count)
    wanted = np.array([nearest(times, step * (tau + 1)) for tau in range(count)])
    picked = np.minimum(wanted, room)
    if picked[0] == 0 and np.all(np.diff(picked) > 0) and duration - times[picked[-1]] <= reach:
        return origin + picked, np.minimum(times[picked], duration)
    return _fewer_frames(shown, start, duration, count, least)


def _fewer_frames(
    shown: np.ndarray, start: float, duration: float, count: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """`choose_frames` where the instants do not have a frame each."""
    step = duration / count
    times = shown - start + step
    first = int(np.searchsorted(times, 0.0, side="right"))
    times = times[first:]
    times = times[times <= duration + slack(duration)]
    picked = np.arange(len(times))
    if len(times) > count:
        picked = np.unique([nearest(times, step * (tau + 1)) for tau in range(count)])
    # To the frames beside the window too: one that was lost there is missed in it as well.
    around = shown[max(0, first - 1) : first + len(times) + 1]
    gap = float(max(np.diff(around).max(initial=0.0), np.diff(times[picked]).max(initial=0.0)))
    if len(picked) < least or gap > duration / max(1, least - 1) + slack(duration):
        raise BadClip(
            f"{plural(len(picked), 'frame')} for the window of {duration:g} s from {start:.3f} s, the largest gap "
            f"{gap:.3f} s: a clip needs {least} (clips.min_frames), spread over it; take a longer clips.duration, "
            "lower clips.min_frames, or leave the row out"
        )
    return first + picked, np.minimum(times[picked], duration)


def cut_windows(
    start: float, end: float, cuts: Iterable[float], durations: Sequence[float]
) -> list[tuple[float, float]]:
    """Cut [start, end] into consecutive windows, none of which crosses a cut.

    Every shot is filled with windows of the longest duration that fits, what remains with the next shorter.

    Args:
        start, end: seconds in the source.
        cuts: times of the first frame of each new shot, seconds in the source.
        durations: the lengths T a window may have, seconds.

    Returns:
        (start, start + T) pairs, seconds, rounded to microseconds, in order; empty if every shot is shorter.
    """
    edges = [start, *sorted(cut for cut in cuts if start < cut < end), end]
    windows = []
    for first, last in itertools.pairwise(edges):
        for duration in sorted(durations, reverse=True):
            count = int((last - first + TIE) / duration)
            for index in range(count):
                begin = round(first + index * duration, 6)
                windows.append((begin, round(begin + duration, 6)))
            first += count * duration
    return windows


def choose_size(width: float, height: float, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size (height, width) for the clips of a source that is shown `width` × `height` pixels large.

    The one nearest to it in aspect ratio (by the ratio of ratios), of which the centre crop loses least. Among several
    as near, the largest that the source fills without being enlarged, or the smallest if there is none.
    """

    def far(size: tuple[int, int]) -> float:
        return abs(math.log((width / height) / (size[1] / size[0])))

    least = min(map(far, sizes))
    alike = sorted((size for size in sizes if far(size) <= least + 1e-9), key=lambda size: (size[0] * size[1], size))
    filled = [size for size in alike if size[0] <= height + 1e-6 and size[1] <= width + 1e-6]
    return filled[-1] if filled else alike[0]
