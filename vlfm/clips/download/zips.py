"""One member of a zip archive: `zip:ARCHIVE!MEMBER`, the archive a file or on a server, whole or split into parts.

Of an archive on a server only its directory, once, and the member are fetched.
"""

import difflib
import json
import os
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vlfm.clips.download.address import Checks, split_address
from vlfm.clips.download.cache import hash_name
from vlfm.clips.download.downloads import Downloads
from vlfm.clips.download.ranges import Changed, LocalPart, Part, RemotePart, VirtualFile
from vlfm.clips.download.web import is_http
from vlfm.errors import BadClip
from vlfm.storage.files import write_bytes

ZIP = "zip:"
END = 1 << 16  # bytes at the end of an archive, read at once: a small directory is in there
HEADER = 1024  # bytes; a member's own header that is longer costs another request
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of the others a few bytes may unpack to more than fits in memory
ENCRYPTED = 0x41  # flags
DIRECTORY = ".directory"
COMPARED = 5000  # members looked through for a name that is like a wrong one
# What Python's module raises over archives that are damaged, or made to look like one.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, struct.error, OverflowError, NotImplementedError)

Known = tuple[int, str | None]  # size and validator of a part that is on a server

_last = threading.local()


def split_zip(source: str) -> tuple[list[str], str]:
    """The parts of the archive and the member that `zip:PART|PART…!MEMBER` names.

    The first `!` ends the archive: in an address it is written %21, and a path has none.

    Raises:
        BadClip: it is not written like this, or has a checksum of what is never read whole.
    """
    archive, mark, member = source.removeprefix(ZIP).partition("!")
    parts = archive.split("|")
    if not mark or not member or not all(parts):
        raise BadClip(f"{source}: write zip:ARCHIVE!MEMBER, and the parts of a split archive as zip:PART|PART!MEMBER")
    for part in parts:
        if is_http(part) and split_address(part)[1] != Checks():
            raise BadClip(
                f"{source}: a checksum or size after # is checked on whole files, but of an archive only one member is "
                "read, which has a checksum of its own; leave it out"
            )
    return parts, member


@dataclass(frozen=True)
class Archive:
    """An open archive: what it was opened for, and whether its directory has just been read."""

    key: str
    file: VirtualFile
    zip: zipfile.ZipFile
    fresh: bool


def fetch_member(source: str, parts: Sequence[str | Path], member: str, downloads: Downloads) -> Path:
    """Take a member out of an archive once, see `Cache.obtain`.

    Args:
        source: the whole of it, for messages.
        parts: of the archive: addresses, and paths of files that are there.
        member: its name in the archive, as the archive writes it, or the last part of it where only one has that.

    Returns:
        a file that has the archive's time of change, where that is a file itself.

    Raises:
        BadClip: no archive, no such member, or one that is too large, encrypted, damaged or compressed in a way that
            is not supported; the server does not give parts of files.
        OSError: the folder cannot be written.
    """
    stats = [part.stat() for part in parts if isinstance(part, Path)]
    key = json.dumps([[str(part) for part in parts], [[stat.st_size, stat.st_mtime_ns] for stat in stats]])
    changed = max((stat.st_mtime_ns for stat in stats), default=None)

    def make(path: Path) -> None:
        temporary = path.with_suffix(".part")
        try:
            _extract(source, key, parts, member, downloads, temporary)
            if changed is not None:
                os.utime(temporary, ns=(time.time_ns(), changed))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    return downloads.cache.obtain(hash_name("member", key, member), make)


def _extract(source: str, key: str, parts: Sequence[str | Path], member: str, downloads: Downloads, path: Path) -> None:
    while True:
        archive = _open(source, key, parts, downloads)
        try:
            return _copy(source, archive, member, downloads, path)
        except (Changed, *DAMAGED) as error:
            _last.archive = None
            if archive.fresh:
                raise BadClip(f"{source} cannot be taken out ({_said(error)}); replace the archive") from error
            # The directory is from before, perhaps of another archive at the same address.
            _directory(key, downloads.cache.folder).unlink(missing_ok=True)


def _copy(source: str, archive: Archive, member: str, downloads: Downloads, path: Path) -> None:
    info = _find(archive.zip, member)
    if info is None:
        raise BadClip(f"{source}: the archive has no such member{_near(member, archive.zip.namelist())}")
    if info.is_dir():
        raise BadClip(f"{source} is a folder of the archive; give a file in it")
    if info.flag_bits & ENCRYPTED:
        raise BadClip(f"{source} is encrypted; unpack the archive and give the file")
    if info.compress_type not in METHODS:
        raise BadClip(
            f"{source} is compressed by method {info.compress_type}, and only stored and deflated members can be read; "
            "unpack the archive and give the file"
        )
    if info.file_size == 0:
        raise BadClip(f"{source} is empty (0 bytes)")
    downloads.expect(source, info.file_size)
    archive.file.will_read(info.header_offset + HEADER + info.compress_size)
    left = info.file_size
    with open(path, "wb") as out:
        # It gives no more than the size in the directory, and compares the CRC-32.
        with archive.zip.open(info) as unpacked:
            while data := unpacked.read(min(1 << 20, left)):
                out.write(data)
                left -= len(data)
        out.flush()
        os.fsync(out.fileno())
    if left:
        raise zipfile.BadZipFile(f"{info.file_size - left} bytes came out where the directory says {info.file_size}")


def _open(source: str, key: str, parts: Sequence[str | Path], downloads: Downloads) -> Archive:
    """The archive that this thread has used last, or another one."""
    last: Archive | None = getattr(_last, "archive", None)
    if last is not None and last.key == key:
        return replace(last, fresh=False)
    fresh = True
    tail, known = b"", [None] * len(parts)
    if any(isinstance(part, str) for part in parts):
        fresh, known, tail = _remembered(source, key, parts, downloads)
    file = VirtualFile(_parts(parts, known, downloads), tail)
    _last.archive = Archive(key, file, _read_directory(source, file), fresh)
    return _last.archive


def _parts(parts: Sequence[str | Path], known: Sequence[Known | None], downloads: Downloads) -> list[Part]:
    attempts = downloads.settings.attempts
    return [
        LocalPart(part) if isinstance(part, Path) else RemotePart(part, downloads.web, attempts, of)
        for part, of in zip(parts, known, strict=True)
    ]


def _read_directory(source: str, file: VirtualFile) -> zipfile.ZipFile:
    """Open an archive; the end of it, from the directory on, is in `file.tail` then."""
    file.remember = True
    try:
        file.seek(max(0, file.size - END))
        file.read()
        return zipfile.ZipFile(file)
    except Changed as error:
        raise BadClip(f"{source}: {error} a moment ago; try again later") from error
    except DAMAGED as error:
        raise BadClip(f"{source}: this is no zip archive ({_said(error)}); correct the source") from error
    finally:
        file.remember = False


def _directory(key: str, folder: Path) -> Path:
    return folder / f"{hash_name('directory', key)}{DIRECTORY}"


def _remembered(
    source: str, key: str, parts: Sequence[str | Path], downloads: Downloads
) -> tuple[bool, list[Known | None], bytes]:
    """The end of an archive on a server, which the first job that wants a member of it fetches for all.

    Returns:
        whether this was the first; for each part that is on a server its size and validator; the bytes.
    """
    fresh = False

    def make(path: Path) -> None:
        nonlocal fresh
        fresh = True
        opened = _parts(parts, [None] * len(parts), downloads)
        file = VirtualFile(opened)
        _read_directory(source, file).close()
        known = [(part.size, part.validator) if isinstance(part, RemotePart) else None for part in opened]
        downloads.cache.make_room(len(file.tail))
        write_bytes(path, json.dumps(known).encode() + b"\n" + file.tail)

    while True:
        path = downloads.cache.obtain(_directory(key, downloads.cache.folder).stem, make, DIRECTORY)
        try:
            known, _, tail = path.read_bytes().partition(b"\n")
        except FileNotFoundError:  # a job that found the archive changed has removed it
            continue
        return fresh, [of and (of[0], of[1]) for of in json.loads(known)], tail


def _find(archive: zipfile.ZipFile, member: str) -> zipfile.ZipInfo | None:
    """The member of this name; a name without a folder stands for the one member in any folder that has it."""
    if (info := archive.NameToInfo.get(member)) is not None or "/" in member:
        return info
    found = [info for name, info in archive.NameToInfo.items() if name.endswith(f"/{member}")]
    return found[0] if len(found) == 1 else None


def _near(member: str, names: list[str]) -> str:
    """Members whose names are like it, for a message."""
    last = PurePosixPath(member).name.lower()
    near = [name for name in names if PurePosixPath(name).name.lower() == last and not name.endswith("/")]
    near = near or difflib.get_close_matches(member, names[:COMPARED], cutoff=0.7)
    return f"; do you mean {' or '.join(near[:3])}?" if near else f" among its {len(names)}"


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
