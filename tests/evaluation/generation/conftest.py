"""Moving digits, drawn from a font of 3×5 cells: enough to measure what can be measured."""

import numpy as np
import pytest
import torch

from vlfm.clips.moving_digits.language import COLOURS, DIRECTIONS, SPEEDS, MovingDigit, caption_of

SIDE, FRAMES, FPS = 32, 8, 8.0
CELLS = (
    "111101101101111 010110010010111 111001111100111 111001111001111 101101111001001 "
    "111100111001111 111100111101111 111001001001001 111101111101111 111101111001111"
).split()
GROUND = 12


def shape_of(digit: int, height: int) -> np.ndarray:
    """Brightness (h, w), 0 or 1, h at most `height`."""
    cells = np.array(list(CELLS[digit]), dtype=float).reshape(5, 3)
    return cells.repeat(height // 5, 0).repeat(height // 5, 1)


def draw(digits, random: np.random.Generator, side=SIDE, frames=FRAMES, fps=FPS, height=15) -> np.ndarray:
    """A clip uint8 (N, side, side, 3); the later digit hides the earlier."""
    clip = np.full((frames, side, side, 3), GROUND, np.float64)
    for one in digits:
        shape = np.pad(shape_of(one.digit, height), 1)
        size = np.array(shape.shape)[::-1]
        way = np.array(DIRECTIONS[one.direction])
        travel = SPEEDS[one.speed] * side * (frames - 1) / fps
        low, high = np.maximum(0, -way * travel), side - size - np.maximum(0, way * travel)
        start = random.uniform(low, np.maximum(low, high))
        for index in range(frames):
            right, down = start + way * SPEEDS[one.speed] * side * index / fps
            alpha = _placed(shape, down, right, side)[..., None]
            clip[index] = alpha * np.array(COLOURS[one.colour]) + (1 - alpha) * clip[index]
    return clip.round().clip(0, 255).astype(np.uint8)


def _placed(shape: np.ndarray, down: float, right: float, side: int) -> np.ndarray:
    """A picture (side, side) with the shape at a place between the pixels, linearly interpolated."""
    picture = np.zeros((side + 1, side + 1))
    y, x = int(down), int(right)
    for dy, wy in ((0, 1 - (down - y)), (1, down - y)):
        for dx, wx in ((0, 1 - (right - x)), (1, right - x)):
            part = picture[y + dy : y + dy + shape.shape[0], x + dx : x + dx + shape.shape[1]]
            part += wy * wx * shape[: part.shape[0], : part.shape[1]]
    return picture[:side, :side]


def some_digits(random: np.random.Generator, count: int = 1) -> tuple[MovingDigit, ...]:
    """`count` digits of different colours."""
    colours = random.permutation(list(COLOURS))[:count]
    directions, speeds = list(DIRECTIONS), list(SPEEDS)
    return tuple(
        MovingDigit(int(random.integers(10)), str(colour), str(random.choice(directions)), str(random.choice(speeds)))
        for colour in colours
    )


def some_clips(total: int, seed: int, count: int = 1, **options) -> tuple[np.ndarray, list[str]]:
    """Clips (B, N, H, W, 3) and their captions."""
    random = np.random.default_rng(seed)
    told = [some_digits(random, count) for _ in range(total)]
    return np.stack([draw(digits, random, **options) for digits in told]), [caption_of(digits) for digits in told]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """These networks are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
