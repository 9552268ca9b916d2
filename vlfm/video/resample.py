"""Frames that arrive one by one → frames at other instants, through paths in overlapping windows, in bounded memory.

A shot is covered by windows of N frames, each half over the next, with a path through each; where windows overlap
their values are blended with smooth weights that sum to 1. Path and blend are both linear, so the frames between
given frames are one matrix times the frames around them. No path runs across a cut, nor across a pause (a frame
shown much longer than its neighbours): there the last frame stays.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from vlfm.errors import VLFMError
from vlfm.flow.bases import BASES
from vlfm.video.motion import Motion
from vlfm.video.path_weights import DEFAULT_BASIS, path_weights, tail_weights
from vlfm.video.spaces import Space

if TYPE_CHECKING:
    from vlfm.video.continuation import Continuation

PATHS = ("motion", "hybrid", "projected", "linear")
PAUSE = 4.0  # times the usual interval between frames
BATCH = 8  # frames made at a time


@dataclass(frozen=True)
class PathSettings:
    """How paths run through a video.

    Attributes:
        kind: `hybrid` (projected plus interpolated residual: exact at the frames), `projected` (smooth, not
            exact; the paper's with `legendre`), `linear`, or `motion`, from frame to frame along the motion
            (`vlfm.video.motion`).
        window: frames N a path runs through.
        order: number of basis functions, at most what N frames carry: 2√N Legendre polynomials (D1), N cosines.
        basis: `cosine` or `legendre` (the paper's).

    Raises:
        VLFMError: for values out of range.
    """

    kind: str = "hybrid"
    window: int = 8
    order: int = 5
    basis: str = DEFAULT_BASIS

    def __post_init__(self):
        if self.kind not in PATHS:
            raise VLFMError(f"unknown path {self.kind!r}; there are {', '.join(PATHS)}")
        if not 3 <= self.window <= 64:  # windows of two frames do not overlap
            raise VLFMError(f"a window holds 3 to 64 frames; asked for {self.window}")
        if self.basis not in BASES:
            raise VLFMError(f"unknown basis {self.basis!r}; there are {', '.join(BASES)}")
        most = BASES[self.basis].safe_order(self.window)
        if self.kind in ("hybrid", "projected") and not 1 <= self.order <= most:
            raise VLFMError(
                f"order {self.order} does not suit windows of {self.window} frames: it may be 1 to {most} "
                f"{BASES[self.basis].plural}, beyond which a path swings between the frames; lower the order or widen "
                "the window"
            )

    @property
    def hop(self) -> int:
        """Frames from one window to the next."""
        return self.window // 2


def blended_weights(
    times: np.ndarray, windows: list[tuple[int, int]], instants: np.ndarray, settings: PathSettings
) -> np.ndarray:
    """The weights of n frames at K instants, (K, n): the paths of the windows that hold an instant, blended.

    A window's share is `sin²` of how far through it the instant is, over the sum of all shares: smooth, 0 where a
    window begins or ends amid others.

    Args:
        times: (n,) seconds. windows: (first, one past the last) indices into them; every instant lies in one.
        instants: (K,) seconds.
    """
    total, shares = np.zeros((len(instants), len(times))), np.zeros(len(instants))
    for first, end in windows:
        begins, ends = times[first], times[end - 1]
        inside = (instants >= begins) & (instants <= ends)
        if not inside.any():
            continue
        through = (instants[inside] - begins) / max(ends - begins, 1e-9)
        share = np.sin(np.pi * through) ** 2 + 1e-9  # alone at the ends of a shot, a window still counts in full
        path = path_weights(settings.kind, times[first:end], instants[inside], settings.order, basis=settings.basis)
        total[inside, first:end] += share[:, None] * path
        shares[inside] += share
    return total / shares[:, None]


class Resampler:
    """Frames in, with their true times; frames out, at `j / fps`.

    `push` each frame, then `finish`; both yield uint8 (H, W, 3). At most 2.5 N frames are held, whatever the
    length. A frame that is itself asked for, within a millisecond (containers round times to that) and a
    twentieth of an interval, passes through untouched, if the path is exact at the frames.

    Args:
        fps: of the output. rate: of the input, as the container states it.

    Attributes:
        made: frames yielded so far. given: those of them that passed through. shots: shots begun.
    """

    def __init__(self, space: Space, fps: Fraction, rate: Fraction, settings: PathSettings) -> None:
        self._space, self._fps, self._settings = space, fps, settings
        self._tolerance = min(0.001, 0.05 / max(float(fps), float(rate)))
        self._gaps: deque[float] = deque([1 / float(rate)], maxlen=8)
        self._exact = space.exact and settings.kind != "projected"
        self._motion = Motion() if settings.kind == "motion" else None
        self._next = 0
        self._begin()
        self.made = self.given = 0
        self.shots = 0

    def _begin(self) -> None:
        self._items: list = []
        self._times: list[float] = []
        self._dropped = 0  # frames of the shot that are no longer held
        self._gap = 0  # the gap of the shot, counted by the frame before it, that comes next

    @property
    def interval(self) -> float:
        """Seconds from frame to frame, the median of late."""
        return median(self._gaps)

    @property
    def last(self) -> float:
        """Time of the last frame, seconds."""
        return self._times[-1]

    def push(self, shown: float, frame: np.ndarray, cut: bool = False) -> Iterator[np.ndarray]:
        """Take the next frame. cut: it begins a new shot."""
        if self._times:
            gap, pause = shown - self._times[-1], PAUSE * self.interval
            if cut or gap > pause:
                yield from self._finish_shot(shown - self._tolerance)
                self._begin()
            self._gaps.append(min(gap, pause))  # a film that goes on more slowly is soon no pause any more
        if not self._times:
            self.shots += 1
        self._times.append(shown)
        self._items.append(self._space.put(frame))
        # A gap is ready when no window that a later frame could open or end would reach it.
        ready = self._dropped + len(self._times) - self._settings.window
        if ready - self._gap >= self._settings.hop:
            yield from self._emit(ready, None)

    def finish(self, until: float) -> Iterator[np.ndarray]:
        """The rest, the last frame held to `until`, seconds."""
        yield from self._finish_shot(until - self._tolerance)

    def extrapolate(self, until: float, tail: str, model: "Continuation | None" = None) -> Iterator[np.ndarray]:
        """The rest, and after the last frame a tail to `until`, seconds, from the shot's last window.

        tail: one of `vlfm.flow.tails`, or `motion`: on along the motion between the last two frames.
        model: goes on instead, where it sees the picture.
        """
        yield from self._finish_shot(self.last + self._tolerance)
        times = np.array(self._times[-self._settings.window :])
        items = self._items[-len(times) :]
        instants = self._instants(until - self._tolerance)
        if model is not None and len(instants):
            model.begin(self._space.frame(items[-1]))
        first = 0
        for made in self._tail(tail, times, items, instants):
            if model is not None:
                made = model(instants[first : first + len(made)] - times[-1], made)
            first += len(made)
            self.made += len(made)
            yield from made

    def _tail(self, tail: str, times: np.ndarray, items: list, instants: np.ndarray) -> Iterator[np.ndarray]:
        """The frames at the instants, up to `BATCH` at a time."""
        if tail == "motion" and len(times) > 1:
            last, previous = times[-1], times[-2]
            motion = self._motion or Motion()
            for start in range(0, len(instants), BATCH):
                ahead = (instants[start : start + BATCH] - last) / (last - previous)
                yield motion.onward(*map(self._space.frame, items[-2:]), ahead)
            return
        tail = "hold" if tail == "motion" else tail
        lines = np.eye(len(times))[-1:]
        # All at once, so that a tail that is refused is refused before any of it is made.
        kind = "hybrid" if self._motion else self._settings.kind  # at fixed places there is no motion
        weights = tail_weights(tail, times, instants, kind, self._settings.order, self._settings.basis)
        for start in range(0, len(instants), BATCH):
            part = weights[start : start + BATCH]
            yield self._space.combine(part, lines.repeat(len(part), 0), items)

    def _instants(self, until: float) -> np.ndarray:
        """The instants from the next one on that lie before `until`; they are then taken."""
        first = self._next
        while self._next / self._fps < until:
            self._next += 1
        return np.array([float(index / self._fps) for index in range(first, self._next)])

    def _finish_shot(self, until: float) -> Iterator[np.ndarray]:
        yield from self._emit(self._dropped + len(self._times) - 1, until)

    def _emit(self, upto: int, until: float | None) -> Iterator[np.ndarray]:
        """The instants in the gaps up to the frame `upto` of the shot; at the end of a shot those before `until`."""
        settings, count = self._settings, self._dropped + len(self._times)
        times = np.array(self._times)
        starts = {at for at in range(self._dropped, count - settings.window + 1) if at % settings.hop == 0}
        if until is not None:
            starts.add(max(0, count - settings.window))
        windows = sorted(
            (max(0, start - self._dropped), min(count, start + settings.window) - self._dropped) for start in starts
        )
        instants = self._instants(times[upto - self._dropped] if until is None else until)
        instants = np.minimum(instants, times[-1])
        for start in range(0, len(instants), BATCH):
            yield from self._make(times, windows, instants[start : start + BATCH])
        self._gap = upto
        keep = max(0, min(self._gap + 1, count) - settings.window)
        del self._items[: keep - self._dropped], self._times[: keep - self._dropped]
        self._dropped = max(self._dropped, keep)

    def _make(self, times: np.ndarray, windows: list[tuple[int, int]], instants: np.ndarray) -> Iterator[np.ndarray]:
        nearest = np.abs(instants[:, None] - times).argmin(1)
        untouched = (np.abs(instants - times[nearest]) <= self._tolerance) & self._exact
        wanted = np.clip(instants[~untouched], times[0], times[-1])
        made = iter(())
        if len(wanted):
            lines = path_weights("linear", times, wanted)
            if self._motion is None:
                weights = blended_weights(times, windows, wanted, self._settings)
                made = iter(self._space.combine(weights, lines, self._items))
            else:
                made = self._along(lines)
        for index, passes in zip(nearest, untouched, strict=True):
            self.made += 1
            self.given += bool(passes)
            yield self._space.frame(self._items[index]) if passes else next(made)

    def _along(self, lines: np.ndarray) -> Iterator[np.ndarray]:
        """Frames moved between the two that each row of `lines` (K, n) weighs."""
        for line in lines:
            ends = np.flatnonzero(line > 1e-6)
            pair = [self._space.frame(self._items[index]) for index in (ends[0], ends[-1])]
            yield pair[0] if len(ends) == 1 else self._motion.between(*pair, line[ends[1:]])[0]
