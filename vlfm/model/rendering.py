"""When a clip is shown, and from which noise."""

import hashlib

import numpy as np
import torch


def rate_times(fps: float, duration: float) -> np.ndarray:
    """The instants `j / fps`, j = 1, 2, … up to T: what a video at that rate shows."""
    return np.arange(1, int(duration * fps + 1e-6) + 1) / fps


def shown_times(fps: float, duration: float, times: np.ndarray) -> np.ndarray:
    """The instants of a rate, those outside a clip's own frames at `times` moved to its first and last.

    The frame on display at T was captured up to a frame before it; a path beyond its data means nothing (D7).
    """
    return np.clip(rate_times(fps, duration), times[0], times[-1])


def nearest_frames(instants: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Indices of the frames whose true times lie nearest to the instants, each frame once, in order."""
    nearest = np.abs(times[None, :] - instants[:, None]).argmin(1)
    return np.unique(nearest)


def clip_noise(clip_id: str, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The noise z a clip is rendered from; depends on the clip and the seed, not on its neighbours."""
    generator = torch.Generator().manual_seed((int(clip_id, 16) ^ seed) % 2**63)
    return torch.randn(shape, generator=generator)


def caption_noise(caption: str, number: int, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The noise z of a caption's video with this number; depends on these alone, not on what is made beside it."""
    key = hashlib.sha256(f"{seed}\n{number}\n{caption}".encode()).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(key[:8], "big") % 2**63))
