"""Which zip archive holds which video: their lists of contents, read without unpacking anything."""

import io
import itertools
import os
import zipfile
from collections.abc import Iterable, Sequence

from vlfm.clips.name_table import NameTable
from vlfm.errors import VLFMError


class Archives:
    """Finds members by the last part of their names; twelve bytes a member are kept.

    Args:
        archives: each as the paths of its parts, in order; one path if it is whole.

    Raises:
        VLFMError: one that is no zip archive, or of which a part is missing.
    """

    def __init__(self, archives: Iterable[Sequence[str]]) -> None:
        self._prefixes: list[str] = []  # "zip:PARTS!FOLDER/"
        self._members = NameTable()
        for parts in archives:
            known: dict[str, int] = {}
            for member in list_members(parts):
                folder, slash, name = member.rpartition("/")
                if folder not in known:
                    known[folder] = len(self._prefixes)
                    self._prefixes.append(f"zip:{'|'.join(parts)}!{folder}{slash}")
                self._members.add(name, known[folder])

    def find(self, name: str) -> str | None:
        """The source of the member of this name, in the first archive that has it; None if none has."""
        found = self._members.find(name)
        return None if found is None else f"{self._prefixes[found]}{name}"


def list_members(parts: Sequence[str]) -> list[str]:
    """The names of an archive's members, folders left out.

    Args:
        parts: the paths of its parts, in order.

    Raises:
        VLFMError: no zip archive, or not all of it.
    """
    try:
        with Joined(parts) as file, zipfile.ZipFile(file) as archive:
            return [member.filename for member in archive.infolist() if not member.is_dir()]
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise VLFMError(
            f"{'|'.join(parts)} is no zip archive, or not all of it ({error}); fetch it again, or move it elsewhere"
        ) from None


class Joined(io.RawIOBase):
    """Files one after another, as one that is read."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._files = [open(part, "rb") for part in parts]
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        self._edges = [0, *itertools.accumulate(sizes)]
        self._at = 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._edges[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"no place before the start: {base + offset}")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer) -> int:
        for file, first, last in zip(self._files, self._edges, self._edges[1:], strict=False):
            if first <= self._at < last:
                file.seek(self._at - first)
                got = file.readinto(memoryview(buffer)[: last - self._at])
                self._at += got
                return got
        return 0
