"""How far work has come, for who watches, and how long it took."""

import sys
import time
from collections.abc import Iterable, Iterator


def progress(
    iterable: Iterable | None = None, *, total: int | None = None, what: str, unit: str = "clip", initial: int = 0
):
    """A tqdm bar with ETA on a terminal, silence elsewhere (logs of a cluster job stay readable).

    Args:
        initial: of the total, done before.
    """
    from tqdm import tqdm

    # The original stream, which a copy into a job's log does not see.
    return tqdm(
        iterable,
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        disable=None,
        mininterval=0.5,
        smoothing=0.1,
        file=sys.__stderr__,
    )


def with_progress(items: Iterable, what: str) -> Iterator:
    """The items, with a progress bar."""
    items = list(items)
    return iter(progress(items, total=len(items), what=what))


class Stopwatch:
    """Seconds since it was made: `Stopwatch()` … `.seconds`."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start
