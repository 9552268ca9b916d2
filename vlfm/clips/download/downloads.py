"""What every kind of download needs."""

from dataclasses import dataclass
from pathlib import Path

from vlfm import config
from vlfm.clips.download.cache import Cache
from vlfm.clips.download.rate import Rate
from vlfm.clips.download.web import Web
from vlfm.errors import BadClip


@dataclass(frozen=True)
class Downloads:
    """Where files are kept, and how they are fetched.

    Attributes:
        cache: the folder.
        web: how servers are asked; its timeout is the one of every other wait too.
        settings: `clips.download`.
    """

    cache: Cache
    web: Web
    settings: config.Download

    @classmethod
    def into(cls, folder: Path, timeout: float, settings: config.Download) -> "Downloads":
        """Downloads into a folder; seconds without data after which a server is given up."""
        cache = Cache(folder, settings.cache and settings.cache * 1e9)
        return cls(cache, Web(timeout, Rate(folder, settings.rate and settings.rate * 1e6)), settings)

    def expect(self, source: str, size: int, have: int = 0) -> None:
        """Make room for a file of `size` bytes, `have` of which are there.

        Raises:
            BadClip: it is larger than `clips.download.largest`.
        """
        self.allow(source, size)
        self.cache.make_room(max(0, size - have))

    def allow(self, source: str, size: int) -> None:
        """Refuse a file that has, or has come to, `size` bytes, where `clips.download.largest` is less.

        Raises:
            BadClip: it is.
        """
        if size > self.settings.largest * 1e9:
            raise BadClip(
                f"{source} is larger than {self.settings.largest:g} GB (clips.download.largest); "
                "leave the row out or raise the limit"
            )
