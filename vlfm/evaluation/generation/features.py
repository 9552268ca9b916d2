"""What turns clips into vectors in which clips that look and move alike lie near each other."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional

Clips = Sequence[np.ndarray] | np.ndarray  # uint8 (N, H, W, 3) each, or all in one array (B, N, H, W, 3)


class VideoFeatures(Protocol):
    """Clips → vectors; what measures sets of clips takes any of these.

    Attributes:
        dims: D, numbers a clip.
        fingerprint: identity of the vectors; numbers computed from others do not compare.
    """

    dims: int
    fingerprint: str

    def extract(self, clips: Clips) -> np.ndarray:
        """Clips uint8 (B, N, H, W, 3), or B of any lengths and sizes → (B, D) float64."""
        ...


def sampled(count: int, total: int) -> np.ndarray:
    """Indices of `count` frames of `total`, evenly spaced from the first to the last; repeated where there are few."""
    return np.linspace(0, total - 1, count).round().astype(int)


def prepared(clips: Clips, count: int, size: tuple[int, int]) -> torch.Tensor:
    """`count` frames of each clip, evenly sampled, the whole picture resized to `size`: uint8 (B, count, 3, *size)."""
    result = torch.empty(len(clips), count, 3, *size, dtype=torch.uint8)
    for index, clip in enumerate(clips):
        frames = torch.from_numpy(np.ascontiguousarray(clip[sampled(count, len(clip))])).movedim(-1, 1)
        if frames.shape[-2:] != size:
            resized = functional.interpolate(frames.float(), size=size, mode="bilinear", antialias=True)
            frames = resized.round().clamp(0, 255).to(torch.uint8)
        result[index] = frames
    return result
