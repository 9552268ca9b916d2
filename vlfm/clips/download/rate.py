"""A limit on the bytes a second that all jobs of one machine take together."""

import fcntl
import hashlib
import platform
import struct
import time
from pathlib import Path

PIECE = 1 << 16  # bytes read at once
AHEAD = 60.0  # seconds; the jobs' queue is never this long, so a file that says so is from before the clock was set


class Rate:
    """A queue for the network: after reading bytes a job waits as long as they and all bytes queued before them take.

    The end of the queue is a number in a file that the jobs of a machine share. Bursts are not saved up for.

    Args:
        folder: where the file lies; another machine that has the folder too counts by itself.
        limit: bytes a second; None for no limit.
    """

    def __init__(self, folder: Path, limit: float | None) -> None:
        machine = hashlib.sha256(platform.node().encode()).hexdigest()[:16]
        self._file = folder / f"{machine}.rate"
        self._limit = limit
        # A tenth of a second's worth, so that the jobs take turns often.
        self.piece = PIECE if limit is None else max(1, min(PIECE, int(limit / 10)))

    def wait(self, count: int) -> float:
        """Wait for the time that `count` bytes take; returns the seconds waited."""
        if self._limit is None:
            return 0.0
        takes = count / self._limit
        with open(self._file, "a+b") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            handle.seek(0)
            stored = handle.read(8)
            now = time.time()  # shared by processes, and goes on through a restart
            free = struct.unpack("<d", stored)[0] if len(stored) == 8 else now
            start = free if now < free < now + AHEAD else now
            handle.truncate(0)
            handle.write(struct.pack("<d", start + takes))
        seconds = max(0.0, start + takes - now)
        time.sleep(seconds)
        return seconds
