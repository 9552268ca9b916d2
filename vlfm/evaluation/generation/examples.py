"""What is to be seen of generated clips: some captions, each with a true clip and a few videos beside it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vlfm.clips.moving_digits.language import ATTRIBUTES
from vlfm.evaluation.generation.features import prepared
from vlfm.splits import TEST, TRAIN

CAPTIONS = {TEST: 12, TRAIN: 4}  # captions that are shown of each split; of one that is alone, 12
VIDEOS = 4  # of each
FRAMES, SIDE = 4, 64  # of a clip on the sheet, and pixels of their longer side
GAP, TITLE, SPACE = 2, 20, 18  # pixels
COLOURS = 256


def strip(clip: np.ndarray) -> np.ndarray:
    """A few frames of a clip, uint8 (N, H, W, 3), small and side by side: uint8 (h, 4·(w + gap), 3)."""
    height, width = clip.shape[1:3]
    size = tuple(max(1, round(side * SIDE / max(height, width))) for side in (height, width))
    frames = prepared([clip], FRAMES, size)[0].movedim(1, -1).numpy()
    return np.concatenate([np.pad(frame, ((0, 0), (0, GAP), (0, 0)), constant_values=255) for frame in frames], 1)


def sheet(groups: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """One picture of all groups, of few colours: a title, and below it their strips side by side.

    Args:
        groups: titles, each with its strips, one at least.
    """
    width = max(sum(strip.shape[1] + SPACE for strip in strips) for _, strips in groups)
    heights = [TITLE + max(strip.shape[0] for strip in strips) + 2 * GAP for _, strips in groups]
    picture = Image.new("RGB", (width, sum(heights)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    top = 0
    for (title, strips), height in zip(groups, heights, strict=True):
        draw.text((2, top + 3), title, fill=(20, 20, 20), font=font)
        left = 0
        for strip in strips:
            picture.paste(Image.fromarray(strip), (left, top + TITLE))
            left += strip.shape[1] + SPACE
        top += height
    return picture.quantize(COLOURS, dither=Image.Dither.NONE)


def note(right: np.ndarray) -> str:
    """Which words of its caption the judge reads otherwise in each of a group's videos, in one line.

    Args:
        right: (B, 4) bool, whether each of `ATTRIBUTES` is right; (B, 0) where nobody reads.
    """
    if not right.shape[1]:
        return ""
    wrong = [
        f"{number}: {', '.join(name for name, fine in zip(ATTRIBUTES, line, strict=True) if not fine)}"
        for number, line in enumerate(right, 1)
        if not line.all()
    ]
    return f"Read otherwise in {'; '.join(wrong)}." if wrong else "Every word is read in every video."
