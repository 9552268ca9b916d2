"""What a clip shows of a frame: the largest part around its centre that has the clip's shape."""

from typing import NamedTuple

import numpy as np
from PIL import Image


class Box(NamedTuple):
    """A part of a picture, in whole pixels."""

    left: int
    top: int
    width: int
    height: int


def center_box(rows: int, columns: int, aspect: float, height: int, width: int) -> Box:
    """The largest part of a frame, as it is shown, that is shaped as `height` × `width`; its centre.

    Its sides are whole pixels, as ffmpeg crops, at most half a pixel off. Left and top are even, or colours, of which
    most videos have one for two by two pixels, would move against the rest: the box is up to 1.5 pixels off the centre.

    Args:
        rows, columns: of the frame.
        aspect: width of a pixel over its height.
    """
    shape = width / height
    across = max(1, int(min(columns, rows * shape / aspect) + 0.5))
    down = max(1, int(min(rows, columns * aspect / shape) + 0.5))
    return Box((columns - across) // 4 * 2, (rows - down) // 4 * 2, across, down)


def crop(frame: np.ndarray, aspect: float, height: int, width: int) -> np.ndarray:
    """That part of a frame, resized.

    Args:
        frame: uint8 (rows, columns, 3).
        aspect: width of a pixel over its height.

    Returns:
        uint8 (height, width, 3).
    """
    left, top, across, down = center_box(*frame.shape[:2], aspect, height, width)
    picture = Image.fromarray(frame)
    return np.asarray(
        picture.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + across, top + down))
    )
