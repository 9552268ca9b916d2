"""What frames are worth, compared with the true ones: (K, 3, H, W) in [−1, 1], twice.

`METRICS` judge each frame by itself, (K,); `TEMPORAL` judge how frames follow each other, (K−1,) and (K−2,).
"""

import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from vlfm.evaluation.vmaf import vmaf
from vlfm.frames import psnr

__all__ = [
    "ALL_METRICS",
    "METRICS",
    "TEMPORAL",
    "difference_psnr",
    "flicker",
    "ms_ssim",
    "psnr",
    "psnr_paper",
    "ssim",
    "vmaf",
]

WINDOW = 11  # pixels, SSIM's Gaussian window
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # MS-SSIM's weights from the finest scale to the coarsest


def psnr_paper(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The paper's `10 log10(r² / MSE)`, r the width of the picture in pixels (the paper's are square), in dB.

    Not a PSNR (D6): r² stands where the squared data range belongs. Kept beside the standard one so that
    numbers can be compared with the paper's. The error is in [0, 1] units of the pixels.
    """
    side = float(truth.shape[-1])
    return psnr(frames, truth, data_range=2.0 * side)


def ssim(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Structural similarity with the usual 11-pixel Gaussian window (Wang et al., 2004), at most 1."""
    return structural_similarity_index_measure(frames, truth, data_range=2.0, reduction="none").reshape(-1)


def scales(height: int, width: int) -> int:
    """How many of MS-SSIM's 5 scales a picture has room for: 11, 22, 44, 99 or 176 pixels on its shorter side.

    The coarsest scale must hold the window; torchmetrics wants 99 pixels, not 88, for four.
    """
    side = min(height, width)
    return max((n for n in range(1, 6) if side >= WINDOW * max(2 ** (n - 1), (n - 1) ** 2)), default=0)


def ms_ssim(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik, 2003), 0 … 1.

    Pictures below 176 pixels have no room for the 5 scales: they are judged on the finest ones that fit
    (`scales`), weights divided by their sum. Only numbers from the same picture size compare. NaN below 11 pixels.
    """
    count = scales(*truth.shape[-2:])
    if count == 0:
        return torch.full((len(truth),), torch.nan)
    betas = tuple(beta / sum(BETAS[:count]) for beta in BETAS[:count])
    # relu: a negative correlation has no fractional power.
    return multiscale_structural_similarity_index_measure(
        frames, truth, data_range=2.0, betas=betas, reduction="none", normalize="relu"
    ).reshape(-1)


def difference_psnr(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Temporal consistency: PSNR between the frame-to-frame changes `x_k − x_{k−1}` of result and truth, (K−1,) dB.

    The peak is that of the frames, 2. An error that stays the same in all frames (blur, a wrong colour) costs
    nothing; one that comes and goes, and motion that is missing or jerky, costs its whole energy.
    """
    return psnr(frames.diff(dim=0), truth.diff(dim=0))


def flicker(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Flicker against the truth's: RMS of `x_{k+1} − 2x_k + x_{k−1}` over that of the true frames, (K−2,) dB.

    The second difference leaves out what changes steadily, so no motion has to be estimated and warped. 0 is as
    restless as the truth, above 0 flickers (or judders), below 0 is smoother than the truth. Changes below half a
    grey level count as half a level, so that a still picture compares with a still one.
    """
    floor = 1 / 255
    energy = [x.float().diff(n=2, dim=0).square().flatten(1).mean(1).sqrt().clamp_min(floor) for x in (frames, truth)]
    return 20 * torch.log10(energy[0] / energy[1])


METRICS = {"psnr": psnr, "psnr_paper": psnr_paper, "ssim": ssim}
ALL_METRICS = {**METRICS, "ms_ssim": ms_ssim, "vmaf": vmaf}
TEMPORAL = {"difference_psnr": difference_psnr, "flicker": flicker}
