"""Random access to the clips of a coefficient shard: its headers are read once, each clip in one read after that."""

import os
from dataclasses import dataclass
from pathlib import Path

from vlfm.artifacts import damaged_tar, open_tar
from vlfm.coefficients.shards import ClipCoefficients, decode


@dataclass(frozen=True)
class _Entry:
    """Where a clip's members lie in the file: {extension: (offset, bytes)}."""

    key: str
    members: dict[str, tuple[int, int]]


class ShardReader:
    """An open coefficient shard.

    Raises:
        VLFMError: as `vlfm.artifacts.open_tar` does.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries = _read_headers(path)
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise damaged_tar(path, error) from error

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
            raise damaged_tar(self.path, error) from error
        if len(data) < last - first:
            raise damaged_tar(self.path, "it is cut short")
        sample = {name: data[offset - first : offset - first + size] for name, (offset, size) in entry.members.items()}
        return decode({"__key__": entry.key, **sample}, str(self.path))

    def close(self) -> None:
        os.close(self._file)


def _read_headers(path: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    with open_tar(path) as (_, members):
        for key, extension, member in members:
            if not entries or entries[-1].key != key:
                entries.append(_Entry(key, {}))
            entries[-1].members[extension] = (member.offset_data, member.size)
    return entries
