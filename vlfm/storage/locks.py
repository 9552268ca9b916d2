"""Locks on files. The kernel frees them when the process that holds them ends, however it ends: none is ever stale.

They hold between the machines that share a folder where the file system passes `flock` on (NFS 4, Lustre with `flock`).
"""

import contextlib
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vlfm.errors import VLFMError

PATIENCE = 60.0  # seconds for which a job waits for one that was told to end, and is about to
POLL = 0.2


def lock(path: Path, mode: int) -> BinaryIO:
    """An open file that is locked until it is closed; `mode` is that of `fcntl.flock`.

    If the file was removed while this waited, nobody else would see the lock: the file is made and locked anew.

    Raises:
        BlockingIOError: with `LOCK_NB`, if another process holds it.
    """
    while True:
        handle = open(path, "a+b")
        try:
            fcntl.flock(handle, mode)
            if _is_at(handle, path):
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()


def _is_at(handle: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def sole_writer(output: Path, patience: float | None = None) -> Iterator[None]:
    """Within the block no other process that asks for the same `output` is in such a block.

    After `kill -9` of Snakemake its jobs go on. `snakemake --unlock` and a new run would put a second job beside each,
    at work in the same folder of unfinished pieces.

    Args:
        output: what is written, a file or a folder; the lock is a hidden file beside it, removed at the end.
        patience: seconds to wait for the other process, default `PATIENCE`.

    Raises:
        VLFMError: the other process is still at work after that, with its number and machine.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    path = output.with_name(f".{output.name}.lock")
    with _wait_for(path, output, PATIENCE if patience is None else patience) as handle:
        with contextlib.suppress(OSError):  # a full disk is told of where it matters
            os.ftruncate(handle.fileno(), 0)
            os.write(handle.fileno(), f"process {os.getpid()} on {platform.node()}".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _wait_for(path: Path, output: Path, patience: float) -> BinaryIO:
    limit, told, other = time.monotonic() + patience, False, "another process"
    while True:
        try:
            return lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with contextlib.suppress(FileNotFoundError):
                other = path.read_text(errors="replace")[:300] or other
            if time.monotonic() >= limit:
                raise VLFMError(
                    f"{output} is being written by {other}: wait for its end or stop it, then run the rule again"
                ) from None
            if not told:
                print(f"waiting for {other}, which writes {output}", file=sys.stderr, flush=True)
                told = True
            time.sleep(POLL)
