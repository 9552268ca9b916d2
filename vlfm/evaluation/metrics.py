"""What a frame is worth, compared with the true one. Frames are (K, 3, H, W) in [−1, 1]; results are (K,)."""

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from vlfm.latents.frames import psnr

__all__ = ["METRICS", "psnr", "psnr_paper", "ssim"]


def psnr_paper(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The paper's `10 log10(r² / MSE)`, r the side of the picture in pixels, in dB.

    Not a PSNR (D6): r² stands where the squared data range belongs. Kept beside the standard one so that
    numbers can be compared with the paper's. The error is in [0, 1] units of the pixels.
    """
    side = float(truth.shape[-1])
    return psnr(frames, truth, data_range=2.0 * side)


def ssim(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity with the usual 11-pixel Gaussian window (Wang et al., 2004), at most 1."""
    return structural_similarity_index_measure(frames, truth, data_range=2.0, reduction="none").reshape(-1)


METRICS = {"psnr": psnr, "psnr_paper": psnr_paper, "ssim": ssim}
