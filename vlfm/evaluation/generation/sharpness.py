"""How sharp clips are: one number a clip, to be divided by that of the true ones."""

import numpy as np
import torch

from vlfm.evaluation.generation.features import Clips


def sharpness(clips: Clips) -> np.ndarray:
    """Clips uint8 (B, N, H, W, 3), or B of any lengths and sizes → (B,) float64, radians a pixel.

    The root of (mean squared gradient / variance), of the brightness, mean over frames. By Parseval's theorem that is
    the RMS spatial frequency of the picture about its mean: neither contrast nor brightness matters, nor how much of
    the picture is filled; blur lowers it, as averages of several clips do, and noise raises it. Coarser pictures of the
    same thing have larger numbers: compare only at one size. A frame without contrast (less than half a grey level)
    counts as 0.
    """
    return np.array([_clip_sharpness(clip) for clip in clips], dtype=np.float64)


def _clip_sharpness(clip: np.ndarray) -> float:
    grey = torch.from_numpy(np.ascontiguousarray(clip)).float() @ torch.tensor([0.299, 0.587, 0.114])
    gradient = grey.diff(dim=1).square().mean((1, 2)) + grey.diff(dim=2).square().mean((1, 2))
    variance = grey.var((1, 2), correction=0)
    return torch.where(variance > 0.25, gradient / variance.clamp_min(0.25), 0).sqrt().mean().item()
