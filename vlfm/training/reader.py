"""Random access to the clips of a coefficient shard: its headers are read once, each clip in one read after that."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlfm.coefficients.shards import CAPTION, ClipCaption, ClipCoefficients, decode, decode_caption
from vlfm.errors import VLFMError
from vlfm.storage.tar import damaged_tar, member_places


class ShardReader:
    """An open coefficient shard.

    Raises:
        VLFMError: as `vlfm.storage.tar.member_places` does.
    """

    def __init__(self, path: Path):
        self.path = path
        self._entries = list(member_places(path).items())
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
        return decode(self._sample(index), str(self.path))

    def caption(self, index: int) -> ClipCaption:
        """Read one clip's caption, not its coefficients.

        Raises:
            VLFMError: as reading the clip does.
        """
        return decode_caption(self._sample(index, CAPTION), str(self.path))

    def _sample(self, index: int, wanted: Sequence[str] | None = None) -> dict[str, Any]:
        """A clip's members, or those of them that are wanted, in one read."""
        key, places = self._entries[index]
        members = {name: place for name, place in places.items() if wanted is None or name in wanted}
        first = min((offset for offset, _ in members.values()), default=0)
        last = max((offset + size for offset, size in members.values()), default=0)
        try:
            data = os.pread(self._file, last - first, first)
        except OSError as error:
            raise damaged_tar(self.path, error) from error
        if len(data) < last - first:
            raise damaged_tar(self.path, "it is cut short")
        sample = {name: data[offset - first : offset - first + size] for name, (offset, size) in members.items()}
        return {"__key__": key, **sample}

    def close(self) -> None:
        os.close(self._file)


def open_shard(path: Path, clips: int) -> ShardReader:
    """Open a shard of so many clips.

    Raises:
        VLFMError: if it cannot be read, or holds another number.
    """
    reader = ShardReader(path)
    if len(reader) != clips:
        reader.close()
        raise VLFMError(
            f"{path} holds {len(reader)} clips, its moments say {clips}: it is damaged or was replaced; remove it and "
            "run `snakemake` again"
        )
    return reader
