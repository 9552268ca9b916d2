"""Webdataset shards: tar files of samples, each a few members of one key."""

import contextlib
import io
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path

MEMBERS = ("png", "jpg", "json", "txt", "npy")


def write_tar(path: Path | str, samples: Iterable[Mapping[str, Any]]) -> int:
    """Write a webdataset shard atomically; the same samples give the same bytes.

    Args:
        samples: mappings with `__key__` and members `EXTENSION: bytes`; extensions end in one of `MEMBERS`.

    Returns:
        How many samples were written.
    """
    count = 0
    # As webdataset's own writer does, which imports torch: more than a job of decoding pays for all else.
    with atomic_path(path) as temporary, tarfile.open(temporary, "w|") as tar:
        for sample in samples:
            for extension in sorted(sample.keys() - {"__key__"}):
                member = tarfile.TarInfo(f"{sample['__key__']}.{extension}")
                member.size, member.mode = len(sample[extension]), 0o644
                member.uname = member.gname = "vlfm"
                tar.addfile(member, io.BytesIO(sample[extension]))
            count += 1
    return count


@contextlib.contextmanager
def open_tar(path: Path | str) -> Iterator[tuple[tarfile.TarFile, Iterator[tuple[str, str, tarfile.TarInfo]]]]:
    """Open a webdataset shard: yield it and its members as (key, extension, header), each checked as it comes.

    Raises:
        VLFMError: on a damaged tar, a member that is no plain file, or one whose type is not in `MEMBERS`
            (a pickle, for example): the message names shard and member.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar, _checked_members(tar, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise damaged_tar(path, error) from error


def _checked_members(tar: tarfile.TarFile, path: Path | str) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    for member in tar:
        key, _, extension = member.name.partition(".")
        if not member.isfile() or member.issparse() or extension.rsplit(".", 1)[-1] not in MEMBERS:
            raise VLFMError(
                f"{path}: member {member.name!r} is not one of {', '.join(MEMBERS)}; "
                "the shard was not written by this pipeline and is not read further"
            )
        yield key, extension, member
    tar.fileobj.seek(tar.offset)  # tarfile takes a cut archive for its end, if the cut is in a header
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it is cut short")


def damaged_tar(path: Path | str, why: object) -> VLFMError:
    """What to raise for a shard that cannot be read."""
    return VLFMError(f"{path} is damaged ({why}); remove it and run its rule again")


def member_places(path: Path | str) -> dict[str, dict[str, tuple[int, int]]]:
    """Where a webdataset shard's members lie: {key: {extension: (offset, bytes)}}, in order; only headers are read.

    Raises:
        VLFMError: as `open_tar` does.
    """
    places: dict[str, dict[str, tuple[int, int]]] = {}
    with open_tar(path) as (_, members):
        for key, extension, member in members:
            places.setdefault(key, {})[extension] = member.offset_data, member.size
    return places


# A thousand clips have ten thousand headers, and those who want a few clips come back for others.
@lru_cache(maxsize=16)
def _places_of(path: str, file: int, changed: int, size: int) -> dict[str, dict[str, tuple[int, int]]]:
    return member_places(path)


def read_tar(path: Path | str, only: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the samples of a webdataset shard as `{"__key__": str, EXTENSION: bytes}`.

    Args:
        only: keys of the samples that are wanted; of others no more than the headers is read.

    Raises:
        VLFMError: as `open_tar` does.
    """
    if only is not None:
        yield from _wanted(path, only)
        return
    sample: dict[str, Any] = {}
    with open_tar(path) as (tar, members):
        for key, extension, member in members:
            if sample and sample["__key__"] != key:
                yield sample
                sample = {}
            sample["__key__"] = key
            sample[extension] = tar.extractfile(member).read()
    if sample:
        yield sample


def _wanted(path: Path | str, only: Collection[str]) -> Iterator[dict[str, Any]]:
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            places = _places_of(os.path.realpath(path), stat.st_ino, stat.st_mtime_ns, stat.st_size)
            for key, members in places.items():
                if key in only:
                    yield {"__key__": key, **{name: _read(file, *place) for name, place in members.items()}}
    except OSError as error:
        raise damaged_tar(path, error) from error


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise OSError("it is cut short")
    return data
