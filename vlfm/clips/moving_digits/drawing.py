"""Moving digits drawn: real handwriting, coloured, on its way across a dark square.

The handwriting is scikit-learn's copy of the test part of Alpaydin and Kaynak's "Optical recognition of handwritten
digits" (UCI, 1998): 1,797 digits of 13 people, 8×8 pixels, 17 grey levels. The package holds it; nothing is fetched.
"""

import functools
from collections.abc import Sequence

import numpy as np

from vlfm.clips.moving_digits.language import COLOURS, DIRECTIONS, SPEEDS, MovingDigit

VERSION = 2  # of the pictures; raise it when the same digits are drawn otherwise
SIDE = {1: 1 / 2, 2: 13 / 32}  # digits in a clip → side of a digit's eight pixels, as a share of the picture's side
GROUND = 12  # grey level behind the digits
INK = 1.15  # strokes are drawn this much stronger than they were scanned, full ink at most
ANYWHERE = 0.5  # of the picture's side: with that much to wander, a digit may be wherever it fits
DRAWS = 8  # starts that are drawn for two digits; the one in which they stay furthest apart is taken


@functools.cache
def handwriting() -> tuple[np.ndarray, np.ndarray]:
    """The ink of every handwritten digit, float32 (1797, 8, 8) in [0, 1], and which digit each is, int64 (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float32) / 16, digits.target.astype(np.int64)


def extent(count: int) -> float:
    """The side of what is drawn of one of `count` digits, over the picture's.

    Between pixels ink fades, half a pixel out on every side.
    """
    return SIDE[count] * 9 / 8


def longest(count: int) -> float:
    """Seconds in which the fastest of `count` digits crosses the picture."""
    return (1 - extent(count)) / max(SPEEDS.values())


def draw_ways(
    digits: Sequence[MovingDigit], times: np.ndarray, random: np.random.Generator, wander: float = ANYWHERE
) -> np.ndarray:
    """Where digits are: each moves straight on at its speed, wholly inside the picture all the time.

    Args:
        times: (N,) seconds since the start, increasing, at most `longest` of that many digits.
        wander: how far the middle of a digit's way may be from the middle of the picture, to each side, as a share of
            the picture's side.

    Returns:
        (digits, N, 2) centres, to the right and downwards, as shares of the picture's side.
    """
    ways = [_ways(digits, times, random, wander) for _ in range(DRAWS if len(digits) > 1 else 1)]
    return max(ways, key=_nearest)


def _ways(digits: Sequence[MovingDigit], times: np.ndarray, random: np.random.Generator, wander: float) -> np.ndarray:
    margin = extent(len(digits)) / 2
    ways = []
    for digit in digits:
        moved = np.outer(times, DIRECTIONS[digit.direction]) * SPEEDS[digit.speed]
        middle = 0.5 - (moved.min(0) + moved.max(0)) / 2
        room = np.minimum(0.5 - margin - (moved.max(0) - moved.min(0)) / 2, wander)
        ways.append(middle + random.uniform(-room, room) + moved)
    return np.stack(ways)


def _nearest(ways: np.ndarray) -> float:
    """How near the first two digits come to each other; 0 where there is one."""
    return float(np.linalg.norm(ways[0] - ways[1], axis=-1).min()) if len(ways) > 1 else 0.0


def draw_frames(digits: Sequence[MovingDigit], ink: Sequence[np.ndarray], ways: np.ndarray, side: int) -> np.ndarray:
    """The pictures of digits on their ways; where two meet, the later one lies on the other.

    Args:
        ink: of each digit, float32 (8, 8) in [0, 1].
        ways: (digits, N, 2), as `draw_ways` gives them.
        side: of the picture, pixels.

    Returns:
        uint8 (N, side, side, 3), RGB.
    """
    import cv2

    frames = np.full((ways.shape[1], side, side, 3), GROUND, np.float32)
    scale = SIDE[len(digits)] * side / 8
    for digit, strokes, way in zip(digits, ink, ways, strict=True):
        colour = np.array(COLOURS[digit.colour], np.float32)
        for frame, centre in zip(frames, way, strict=True):
            # Pixels are counted from the middle of the first one, in the handwriting as in the picture.
            across, down = centre * side - 0.5 - 3.5 * scale
            matrix = np.array([[scale, 0, across], [0, scale, down]], np.float32)
            cover = cv2.warpAffine(strokes, matrix, (side, side), flags=cv2.INTER_CUBIC)
            cover = np.clip(INK * cover, 0, 1)[..., None]
            frame += cover * (colour - frame)
    return frames.round().astype(np.uint8)
