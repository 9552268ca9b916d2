"""Random access to the clips of a coefficient shard: its headers are read once, each clip in one read after that."""

import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from vlfm.artifacts import MEMBERS
from vlfm.coefficients.shards import ClipCoefficients, decode
from vlfm.errors import VLFMError


@dataclass(frozen=True)
class _Entry:
    """Where a clip's members lie in the file: {extension: (offset, bytes)}."""

    key: str
    members: dict[str, tuple[int, int]]


class ShardReader:
    """An open coefficient shard.

    Raises:
        VLFMError: on a damaged tar, a member that is no plain file, or one whose type is not in `MEMBERS` (a pickle,
            for example): the message names shard and member.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self._entries = _read_headers(path)
            self._file = os.open(path, os.O_RDONLY)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise _damaged(path, error) from error

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> ClipCoefficients:
        """Read one clip.

        Raises:
            VLFMError: if it cannot be read, or a member is missing or no plain array: names shard and clip.
        """
        entry = self._entries[index]
        first = min(offset for offset, _ in entry.members.values())
        last = max(offset + size for offset, size in entry.members.values())
        try:
            data = os.pread(self._file, last - first, first)
        except OSError as error:
            raise _damaged(self.path, error) from error
        if len(data) < last - first:
            raise _damaged(self.path, "it is cut short")
        sample = {name: data[offset - first : offset - first + size] for name, (offset, size) in entry.members.items()}
        return decode({"__key__": entry.key, **sample}, str(self.path))

    def close(self) -> None:
        os.close(self._file)


def _read_headers(path: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            if not member.isfile() or member.issparse() or extension.rsplit(".", 1)[-1] not in MEMBERS:
                raise VLFMError(
                    f"{path}: member {member.name!r} is not one of {', '.join(MEMBERS)}; "
                    "the shard was not written by this pipeline and is not read further"
                )
            if not entries or entries[-1].key != key:
                entries.append(_Entry(key, {}))
            entries[-1].members[extension] = (member.offset_data, member.size)
        tar.fileobj.seek(tar.offset)  # tarfile takes a cut archive for its end, if the cut is in a header
        if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("it is cut short")
    return entries


def _damaged(path: Path, why: object) -> VLFMError:
    return VLFMError(f"{path} is damaged ({why}); remove it and run its rule again")
