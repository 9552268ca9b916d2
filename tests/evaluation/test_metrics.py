import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from vlfm.evaluation.metrics import psnr, psnr_paper, ssim


def pair(error=0.1, side=32):
    truth = torch.rand(3, 3, side, side) * 1.6 - 0.8
    return truth + error, truth


def test_psnr_of_a_constant_error():
    frames, truth = pair(0.1)
    assert psnr(frames, truth).tolist() == pytest.approx([20 * math.log10(2 / 0.1)] * 3, abs=1e-3)


def test_papers_number_is_the_standard_one_plus_the_side():
    frames, truth = pair(0.1, side=48)
    assert torch.allclose(psnr_paper(frames, truth) - psnr(frames, truth), torch.tensor(20 * math.log10(48)), atol=1e-4)


def test_identical_frames():
    _, truth = pair()
    assert (psnr(truth, truth) > 100).all() and torch.isfinite(psnr(truth, truth)).all()
    assert torch.allclose(ssim(truth, truth), torch.ones(3), atol=1e-5)


def test_ssim_against_its_definition():
    """The formula of Wang et al. with a Gaussian window of σ = 1.5, mirrored at the borders."""
    frames, truth = pair()
    frames = (truth + 0.2 * torch.randn_like(truth)).clamp(-1, 1)

    def blur(x):
        return gaussian_filter(x, 1.5, truncate=3.5, axes=(1, 2), mode="mirror")

    x, y = frames[0].double().numpy(), truth[0].double().numpy()
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mx, my = blur(x), blur(y)
    vx, vy, vxy = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    table = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(frames, truth)[0].item() == pytest.approx(np.mean(table), abs=1e-4)


def test_one_frame():
    frames, truth = pair()
    assert psnr(frames[:1], truth[:1]).shape == ssim(frames[:1], truth[:1]).shape == (1,)
