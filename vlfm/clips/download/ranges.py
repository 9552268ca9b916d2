"""Files that are read in parts where they are, and several of them as one."""

import io
import itertools
import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vlfm.clips.download.retries import Again, Tries
from vlfm.clips.download.web import Answer, Web
from vlfm.errors import BadClip


class Changed(Exception):
    """The server has another file at the address than the one that was begun."""


class Part(Protocol):
    """A file of `size` bytes."""

    size: int

    def read(self, start: int, most: int, stop: int) -> bytes:
        """Between 1 and `most` bytes from `start` on; later calls will go on to `stop`, most likely.

        Raises:
            BadClip: it cannot be read.
        """
        ...


class LocalPart:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(path, "rb", buffering=0)
            self.size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise BadClip(f"{path} cannot be read ({error})") from error

    def read(self, start: int, most: int, stop: int) -> bytes:
        try:
            data = os.pread(self._file.fileno(), most, start)
        except OSError as error:
            raise BadClip(f"{self._path} cannot be read ({error})") from error
        if not data:
            raise BadClip(f"{self._path} became shorter while it was read; try again")
        return data


class RemotePart:
    """A file on a server that gives parts of files. What is read in order comes in one request.

    Args:
        url: its address.
        web: how to ask.
        attempts: see `Tries`.
        known: size and validator, where an earlier one is to be gone on with; the server is not asked for them.

    Attributes:
        size: bytes.
        validator: see `Answer`.

    Raises:
        BadClip: the server does not give parts, or not the file.
        Changed: when it is read and is no longer what is known of it.
    """

    def __init__(self, url: str, web: Web, attempts: int, known: tuple[int, str | None] | None = None) -> None:
        self.url = url
        self._web = web
        self._attempts = attempts
        self._tries = Tries(url, attempts)
        self._answer: Answer | None = None
        self._at = self._stop = 0
        self.size, self.validator = known or self._tries.persist(self._ask)

    def _ask(self) -> tuple[int, str | None]:
        with self._web.get(self.url, {"Range": "bytes=0-0"}) as answer:
            if answer.status == 416 or answer.total == 0:
                raise BadClip(f"{self.url} is empty (0 bytes)")
            if answer.status != 206 or answer.start != 0 or answer.total is None:
                raise BadClip(
                    f"{self.url}: the server gives no parts of a file, so no member can be taken out; download the "
                    "archive, and give its path in place of the address"
                )
            return answer.total, answer.validator

    def read(self, start: int, most: int, stop: int) -> bytes:
        if start != self._at:  # something else is wanted
            self._tries = Tries(self.url, self._attempts)
        data = self._tries.persist(lambda: self._read(start, most, stop))
        self._tries.got(len(data))
        return data

    def _read(self, start: int, most: int, stop: int) -> bytes:
        try:
            if self._answer is None or self._at != start:
                self._open(start, max(start + most, stop))
            data = self._answer.read(min(most, self._stop - start))
            if not data:
                raise Again("the connection ended early")
        except BaseException:
            self._close()
            raise
        self._at += len(data)
        if self._at == self._stop:
            self._close()
        return data

    def _open(self, start: int, stop: int) -> None:
        self._close()
        headers = {"Range": f"bytes={start}-{stop - 1}"} | ({"If-Range": self.validator} if self.validator else {})
        self._answer = self._web.get(self.url, headers)
        self._at, self._stop = start, stop
        if self._answer.status != 206 or self._answer.total not in (None, self.size):
            raise Changed(f"{self.url} is no longer the file that it was")
        if self._answer.start != start:
            raise Again("the server sent another part than the one asked for")

    def _close(self) -> None:
        """Let the connection go; `_at` stays, where to go on."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None


class VirtualFile(io.RawIOBase):
    """Parts, one after the other, as one file to read. Opens nothing and closes nothing.

    Args:
        parts: in order.
        tail: its last bytes, where they are known: they are not read again.

    Attributes:
        size: bytes.
        tail: the last bytes, in memory.
        remember: while true, each read also puts all that lies from its place to the end of the file into `tail`.
    """

    LARGEST_TAIL = 1 << 28  # bytes; two million members of an archive

    def __init__(self, parts: Sequence[Part], tail: bytes = b"") -> None:
        *self._starts, self.size = itertools.accumulate((part.size for part in parts), initial=0)
        self._parts = parts
        self._position = self._stop = 0
        self.tail = tail
        self.remember = False

    def will_read(self, stop: int) -> None:
        """Say that bytes up to `stop` will be read in order: they can be asked for at once."""
        self._stop = stop

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if position < 0:
            raise io.UnsupportedOperation(f"{position} is before the start of the file")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        """All that is asked for, up to the end of the file, unlike other raw files.

        Raises:
            BadClip: a part cannot be read, or there is too much to remember.
            Changed: see `RemotePart`.
        """
        stop = self.size if size is None or size < 0 else min(self._position + size, self.size)
        if self.remember and self._position < min(stop, self.size - len(self.tail)):
            if self.size - self._position > self.LARGEST_TAIL:
                raise BadClip(
                    f"its directory would have {self.size - self._position} bytes; it is damaged, or no archive"
                )
            self.tail = self._gather(self._position, self.size - len(self.tail)) + self.tail
        data = self._gather(self._position, stop)
        self._position += len(data)
        return data

    def readinto(self, buffer) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _gather(self, start: int, stop: int) -> bytes:
        pieces = []
        while start < stop:
            pieces.append(self._piece(start, stop - start))
            start += len(pieces[-1])
        return b"".join(pieces)

    def _piece(self, start: int, most: int) -> bytes:
        known = self.size - len(self.tail)
        if start >= known:
            return self.tail[start - known : start - known + most]
        index = bisect_right(self._starts, start) - 1
        part, offset = self._parts[index], start - self._starts[index]
        most = min(most, part.size - offset, known - start)
        return part.read(offset, most, min(max(self._stop - self._starts[index], offset + most), part.size))
