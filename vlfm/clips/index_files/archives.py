"""Which zip archive holds which video: their lists of contents, read without unpacking anything."""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from vlfm.clips.download.ranges import LocalPart, VirtualFile
from vlfm.clips.download.zips import DAMAGED, ZIP
from vlfm.clips.index_files.name_table import NameTable
from vlfm.errors import BadClip, VLFMError


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
                    self._prefixes.append(f"{ZIP}{'|'.join(parts)}!{folder}{slash}")
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
        with zipfile.ZipFile(VirtualFile([LocalPart(Path(part)) for part in parts])) as archive:
            # Not `is_dir`, which fails on a name of no characters.
            return [name for name in archive.namelist() if name and not name.endswith("/")]
    except (BadClip, OSError, *DAMAGED) as error:
        raise VLFMError(
            f"{'|'.join(parts)} is no zip archive, or not all of it ({error}); fetch it again, or move it elsewhere"
        ) from None
