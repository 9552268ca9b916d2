"""Frames as arrays and as tensors, and the one measure every stage reports on them."""

import numpy as np
import torch


def to_tensor(frames: np.ndarray) -> torch.Tensor:
    """uint8 (…, H, W, 3) → float32 (…, 3, H, W) in [−1, 1]."""
    return torch.from_numpy(frames).movedim(-1, -3).float() / 127.5 - 1


def to_uint8(frames: torch.Tensor) -> np.ndarray:
    """float (…, 3, H, W) in [−1, 1], clipped → uint8 (…, H, W, 3)."""
    pixels = ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return pixels.movedim(-3, -1).cpu().numpy()


def psnr(frames: torch.Tensor, truth: torch.Tensor, data_range: float = 2.0) -> torch.Tensor:
    """`10 log10(data_range² / MSE)` in dB for each frame: (…, 3, H, W) twice → (…).

    The standard definition (D6), in pixel space; `data_range` is 2 for frames in [−1, 1].
    """
    error = (frames.float() - truth.float()).square().flatten(-3).mean(-1)
    return 10 * torch.log10(data_range**2 / error.clamp_min(1e-12))
