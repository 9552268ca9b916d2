"""The folder of downloads: each file is fetched once, kept while it is in use, and removed when space is short.

A file is named by a hash of what was asked for, never by anything that comes from outside. Beside `HASH.video` lie
`HASH.lock`, which every job that asks for the file holds shared while it uses it, and what is left of a download that
was interrupted.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vlfm.storage.locks import lock

OURS = re.compile(r"([0-9a-f]{32})\.(?!lock$)[a-z]+")

_held = threading.local()


def hash_name(*parts: str) -> str:
    """The name of what was asked for, 32 hexadecimal digits."""
    return hashlib.sha256("\n".join(parts).encode(errors="surrogatepass")).hexdigest()[:32]


class Cache:
    """The folder, and how large it may be.

    Args:
        folder: made where it is missing.
        limit: bytes; None for no limit. What is in use, or being fetched, may exceed it.
    """

    def __init__(self, folder: Path, limit: float | None) -> None:
        self.folder = folder
        self._limit = limit

    def obtain(self, name: str, make: Callable[[Path], None], suffix: str = ".video") -> Path:
        """The file of that name, which the first who asks for it makes while the others wait.

        It is in use, and no job removes it, until this thread asks for another one or ends.

        Args:
            name: from `hash_name`.
            make: writes the file at the path it is given, whole or not at all.

        Raises:
            OSError: the folder cannot be written; and whatever `make` raises.
        """
        path = self.folder / f"{name}{suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        _hold(None)
        handle = lock(path.with_suffix(".lock"), fcntl.LOCK_SH)
        try:
            if not path.is_file():
                making = path.with_suffix(".making")
                with lock(making, fcntl.LOCK_EX):
                    try:
                        if not path.is_file():
                            make(path)
                    finally:
                        making.unlink(missing_ok=True)
            # The access time says when it was last used. The time of change stays: a member has that of its archive.
            with contextlib.suppress(PermissionError):  # a file of somebody who shares the folder
                os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        except BaseException:
            handle.close()
            raise
        _hold(handle)
        return path

    def make_room(self, coming: int = 0) -> None:
        """Remove what was not used for longest, until `coming` bytes more fit; what is in use stays."""
        if self._limit is None:
            return
        with lock(self.folder / "cache.lock", fcntl.LOCK_EX):
            entries = sorted(self._entries(), key=lambda entry: (entry.used, entry.name))
            excess = sum(entry.size for entry in entries) + coming - self._limit
            for entry in entries:
                if excess <= 0:
                    return
                with _unused(self.folder / f"{entry.name}.lock") as free:
                    if free:
                        for path in entry.paths:
                            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                        excess -= entry.size

    def _entries(self) -> "list[Entry]":
        entries: dict[str, Entry] = {}
        for path in self.folder.iterdir():
            if match := OURS.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    entries.setdefault(match[1], Entry(match[1], [])).add(path)
        return list(entries.values())


@dataclass
class Entry:
    """What lies in the folder under one name: bytes, and when it was used last (nanoseconds)."""

    name: str
    paths: list[Path]
    size: int = 0
    used: int = 0

    def add(self, path: Path) -> None:
        for file in path.rglob("*") if path.is_dir() else [path]:
            stat = file.stat()
            self.size += stat.st_size
            self.used = max(self.used, stat.st_atime_ns)
        self.paths.append(path)


def _hold(handle: BinaryIO | None) -> None:
    earlier = getattr(_held, "handle", None)
    _held.handle = handle
    if earlier is not None:
        earlier.close()


@contextlib.contextmanager
def _unused(path: Path) -> Iterator[bool]:
    """Whether no job uses what the lock stands for. If so, none begins to within the block, and the lock is removed."""
    try:
        handle = lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    with handle:
        yield True
        path.unlink(missing_ok=True)
