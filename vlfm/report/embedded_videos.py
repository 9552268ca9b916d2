"""What of a run's videos the page holds: whole clips, spread over the run, until the page is full."""

import base64
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from vlfm.errors import VLFMError
from vlfm.spread import spread

SHEETS = 6  # clips whose every frame is shown as a picture too
POSTER_QUALITY = 50  # of WebP, of 100: it is seen for a moment


@dataclass(frozen=True)
class Film:
    """One video element.

    Attributes:
        label: what it shows.
        sources: frame rate → the id of a video in the page; or "" → the only one.
        width, height: pixels.
        poster: its first frame as a data URI, seen until scripts put the video there.
    """

    label: str
    sources: dict[str, str]
    width: int
    height: int
    poster: str


@dataclass(frozen=True)
class Group:
    """Films seen side by side, in step.

    Attributes:
        title: the caption they were made from.
        note: a line below.
        sheet: data URI of a contact sheet, or "".
        label: whether the clip was held out of training, in words, or "".
    """

    title: str
    films: list[Film]
    note: str = ""
    sheet: str = ""
    label: str = ""


@dataclass
class Library:
    """The page's videos, each once, and how many bytes of page they and its pictures take.

    Attributes:
        left: bytes that are left.
        videos: id → base64.
    """

    left: int
    videos: dict[str, str] = field(default_factory=dict)
    _ids: dict[Path, str] = field(default_factory=dict)

    def film(self, label: str, paths: dict[str, Path]) -> Film:
        """A film of videos by frame rate, which are put into the page.

        Raises:
            VLFMError: if one is missing or is no video.
        """
        frame = _first_frame(next(iter(paths.values())))
        height, width = frame.shape[:2]
        poster = self.picture(_webp(Image.fromarray(frame), POSTER_QUALITY), "image/webp")
        return Film(label, {rate: self._put(path) for rate, path in paths.items()}, width, height, poster)

    def picture(self, content: bytes, kind: str) -> str:
        """A picture as a data URI."""
        uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        self.left -= len(uri)
        return uri

    def fits(self, paths: list[Path]) -> bool:
        return cost(paths) <= self.left

    def _put(self, path: Path) -> str:
        if path not in self._ids:
            self._ids[path] = f"v{len(self._ids)}"
            self.videos[self._ids[path]] = base64.b64encode(path.read_bytes()).decode()
            self.left -= cost([path])
        return self._ids[path]


def cost(paths: list[Path]) -> int:
    """Bytes of page that videos take.

    Raises:
        VLFMError: if one is missing.
    """
    try:
        return sum(4 * -(-path.stat().st_size // 3) for path in paths)
    except FileNotFoundError as error:
        raise VLFMError(
            f"{error.filename} is missing; remove the index.json beside it and run its rule again"
        ) from None


def spread_that_fits(items: list, costs: list[int], room: int) -> list:
    """As many items as fit, evenly spaced; one at least, whatever it takes."""
    places = list(range(len(items)))
    for limit in range(len(items), 1, -1):
        chosen = spread(places, limit)
        if sum(costs[place] for place in chosen) <= room:
            return [items[place] for place in chosen]
    return items[:1]


def sheet(path: Path) -> bytes:
    """A contact sheet as WebP, a tenth the size of its PNG.

    Raises:
        VLFMError: if it is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return _webp(image.convert("RGB"), 72)
    except OSError as error:
        raise VLFMError(f"the picture {path} cannot be read ({error}); run `vlfm evaluate` again") from None


def _webp(image: Image.Image, quality: int) -> bytes:
    content = BytesIO()
    image.save(content, "WEBP", quality=quality, method=4)
    return content.getvalue()


def _first_frame(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    video = cv2.VideoCapture(str(path))
    try:
        there, frame = video.read()
    finally:
        video.release()
    if not there:
        raise VLFMError(
            f"{path} is not a video that can be read; remove the index.json beside it and run its rule again"
        )
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
