"""How many frames go through a decoder at once: as many as fit and as still make it faster."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import psutil
import torch

from vlfm.storage.files import read_json, write_json

LARGEST = 256
RUNS = 3  # of each size that is tried
SPARE = 0.15  # of the free memory: what a trial run does not see, fragments and other people's needs
GAIN = 1.05  # a batch of twice the size is worth it if it does so many times the frames a second


class Memory(Protocol):
    """What trial runs are measured with."""

    free: int

    def reset(self) -> None:
        """Begin a measurement."""

    def grown(self) -> int:
        """Bytes that were in use at the peak since `reset`, above what was in use at the start."""


class CudaMemory:
    """A GPU's memory, as PyTorch's allocator sees it."""

    def __init__(self, device: torch.device):
        self._device = device
        self._before = torch.cuda.memory_allocated(device)
        cached = torch.cuda.memory_reserved(device) - self._before
        self.free = torch.cuda.mem_get_info(device)[0] + cached

    def reset(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)

    def grown(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._before


class HostMemory:
    """The process's resident memory; free is what the machine and the job's control groups leave."""

    def __init__(self) -> None:
        self._before = psutil.Process().memory_info().rss
        self.free = min(psutil.virtual_memory().available, left_in_control_groups())

    def reset(self) -> None:
        # Linux forgets the peak; elsewhere it only ever rises, which errs on the safe side.
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def grown(self) -> int:
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 - self._before
        return psutil.Process().memory_info().rss - self._before


def find_batch_size(
    work: Callable[[int], None], device: torch.device, largest: int = LARGEST, memory: Memory | None = None
) -> int:
    """The number of frames to work on at once, a power of two.

    It doubles as long as the memory seen so far says that the next will fit, with 15 % to spare, and frames a second
    grow by more than 5 %. Trials take up to 2 · `RUNS` · `largest` frames; where there is no choice, none.

    Args:
        work: a short run on that many frames.
        device: where it runs.
        largest: the most to try; for a job of few frames at most one `RUNS`-th of them, or the trials take longer
            than the work.

    Raises:
        torch.OutOfMemoryError: not even one frame fits.
    """
    if largest < 2:
        return 1
    memory = memory or (CudaMemory(device) if device.type == "cuda" else HostMemory())
    best, best_rate, size, grown = 1, 0.0, 1, 0
    while size <= largest:
        memory.reset()
        try:
            rate = _rate(work, size, device)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            break
        if rate < GAIN * best_rate:
            break
        best, best_rate = size, rate
        last, grown = grown, max(memory.grown(), 0)
        # What 2n frames need beyond n is at most twice what n needed beyond n / 2.
        needed = grown + 2 * max(grown - last, 0) if size > 1 else 2 * grown
        if needed > (1 - SPARE) * memory.free:
            break
        size *= 2
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return best


def _rate(work: Callable[[int], None], size: int, device: torch.device) -> float:
    """Frames a second: the best of all runs at a size but the first, in which kernels are still chosen."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        work(size)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return size / min(seconds[1:])


def left_in_control_groups(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that this job may still take under Linux's control groups (Slurm, containers); infinity if unlimited."""
    left = float("inf")
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return left
    for line in lines:
        number, _, group = line.split(":", 2)
        if number != "0":
            continue
        inner = Path(group.lstrip("/"))
        for place in (root / inner, *(root / outer for outer in inner.parents)):
            with contextlib.suppress(OSError, ValueError, KeyError):
                limit = int((place / "memory.max").read_text())  # "max" where there is none
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
                used = int((place / "memory.current").read_text()) - int(stat["inactive_file"])
                left = min(left, limit - used)
    return left


class BatchSizes:
    """Frames at once, from which batch of a shard on, kept on disk.

    Results depend on it to the last bit, so that a job that goes on after a kill has to go on with the same.

    Args:
        path: a JSON file of pairs [batch, frames]; read if it exists.
        find: gives the frames of the first batch otherwise.
    """

    def __init__(self, path: Path, find: Callable[[], int]):
        self._path = path
        if not path.exists():
            write_json(path, [[0, find()]])
        self.pairs: list[list[int]] = read_json(path)

    @property
    def first(self) -> int:
        """Frames at once that the shard began with, which decide which clips form a batch."""
        return self.pairs[0][1]

    def at(self, batch: int) -> int:
        """Frames at once in a batch."""
        return next(frames for start, frames in reversed(self.pairs) if start <= batch)

    def halve(self, batch: int) -> int:
        """From this batch on, half as many frames at once; returns how many."""
        frames = max(1, self.at(batch) // 2)
        self.pairs.append([batch, frames])
        write_json(self._path, self.pairs)
        return frames
