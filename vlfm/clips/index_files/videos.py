"""What the user has of a data set's videos: a folder, searched once, or an address that names are put behind."""

import os
import re
import urllib.parse
from functools import cached_property
from pathlib import Path

from vlfm.clips.index_files.archives import Archives
from vlfm.errors import VLFMError

VIDEOS = (".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv",
          ".ts", ".vob", ".webm", ".wmv", ".y4m")  # fmt: skip
ARCHIVE = re.compile(r"(?P<stem>.+?)(\.zip|_part(?P<part>[a-z]{2}))")


class Videos:
    """Finds videos by their published names.

    Args:
        where: a folder, in which every name is looked for through and through, also inside zip archives (split ones
            are `NAME_partaa`, `NAME_partab`, …); or an `http(s)` address that a name is put behind; or None.

    Raises:
        VLFMError: no such folder.
    """

    def __init__(self, where: str | None) -> None:
        self.remote = bool(where) and where.lower().startswith(("http://", "https://"))
        self._address = where.rstrip("/") if self.remote else ""
        self._folder = Path(where) if where and not self.remote else None
        if self._folder is not None and not self._folder.is_dir():
            raise VLFMError(f"{where} is no folder of videos; correct `videos` in clips.index, or leave it out")

    def __bool__(self) -> bool:
        return self.remote or self._folder is not None

    @property
    def address(self) -> str:
        """The address without a last slash; "" for a folder."""
        return self._address

    def find(self, *names: str) -> str | None:
        """The source of the first of some names that is there.

        A name may be a path: it is looked for as it is, and by its last part anywhere below. One without an ending
        may have any. With an address the first name is taken to be there, as .mp4 where it has no ending.
        """
        if self.remote and names:
            name = names[0] if _ending(names[0]) else f"{names[0]}.mp4"
            return f"{self._address}/{urllib.parse.quote(name, errors='surrogatepass')}"
        if self._folder is None:
            return None
        usual = (".mp4", ".mkv", ".webm", ".avi")
        for name in names:
            for ending in ("",) if _ending(name) else usual:
                if found := self._find(f"{name}{ending}"):
                    return found
        return None

    def _find(self, name: str) -> str | None:
        files, folders = self._files
        below = not Path(name).is_absolute() and ".." not in Path(name).parts
        if "/" in name and below and (self._folder / name).is_file():
            return str(self._folder / name)
        last = name.rpartition("/")[2]
        if (index := files.get(last)) is not None:
            return f"{folders[index]}/{last}"
        return self._archives.find(last)

    @cached_property
    def _files(self) -> tuple[dict[str, int], list[str]]:
        """Name → number of its folder, the first in order where several hold it; and the folders."""
        files: dict[str, int] = {}
        folders: list[str] = []
        for folder, below, names in os.walk(self._folder):
            below.sort()
            folders.append(folder)
            for name in names:
                if name.lower().endswith(VIDEOS):
                    files.setdefault(name, len(folders) - 1)
        return files, folders

    @cached_property
    def _archives(self) -> Archives:
        parts: dict[str, list[str]] = {}
        for folder, below, names in os.walk(self._folder):
            below.sort()
            for name in sorted(names):
                if match := ARCHIVE.fullmatch(name):
                    parts.setdefault(f"{folder}/{match['stem']}", []).append(f"{folder}/{name}")
        # Whoever has put a split archive together has both.
        whole = {stem: [name for name in names if name.endswith(".zip")] or names for stem, names in parts.items()}
        return Archives(whole.values())


def _ending(name: str) -> bool:
    return name.lower().endswith(VIDEOS)
