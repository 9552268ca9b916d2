import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from vlfm.errors import VLFMError
from vlfm.evaluation.intervals import mean_interval
from vlfm.evaluation.metrics import (
    ALL_METRICS,
    BETAS,
    TEMPORAL,
    difference_psnr,
    flicker,
    ms_ssim,
    psnr,
    psnr_paper,
    scales,
    ssim,
    vmaf,
)


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


def textured(frames=4, side=64, height=None):
    """Smooth random pictures: something that has structure on several scales."""
    small = torch.rand(frames, 3, (height or side) // 4, side // 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(small, size=(height or side, side), mode="bilinear") * 1.6 - 0.8


# ------------------------------------------------------------------------------------------ MS-SSIM


@pytest.mark.parametrize(
    "side, expected", [(10, 0), (11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (98, 3), (99, 4), (175, 4), (176, 5)]
)
def test_scales_are_as_many_as_fit(side, expected):
    assert scales(side, 300) == scales(300, side) == expected
    truth = textured(2, side, 200)
    score = ms_ssim(truth, truth)
    assert torch.allclose(score, torch.ones(2), atol=1e-4) if expected else score.isnan().all()


def test_ms_ssim_of_three_scales_against_its_definition():
    """The product of contrast · structure at the finer scales and SSIM at the coarsest, weights summing to 1."""
    truth = textured()
    frames = (truth + 0.1 * torch.randn_like(truth)).clamp(-1, 1)
    weights = np.array(BETAS[:3]) / sum(BETAS[:3])
    x, y = frames[0].double().numpy(), truth[0].double().numpy()
    product = 1.0
    for scale, weight in enumerate(weights):

        def blur(picture):
            return gaussian_filter(picture, 1.5, truncate=3.5, axes=(1, 2), mode="mirror")

        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        mx, my = blur(x), blur(y)
        contrast = (2 * (blur(x * y) - mx * my) + c2) / (blur(x * x) - mx**2 + blur(y * y) - my**2 + c2)
        likeness = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        # torchmetrics takes contrast where the window lies within the picture, SSIM over all of it.
        product *= (contrast[:, 5:-5, 5:-5] if scale < 2 else contrast * likeness).mean() ** weight
        x, y = (p.reshape(3, p.shape[1] // 2, 2, p.shape[2] // 2, 2).mean((2, 4)) for p in (x, y))
    assert ms_ssim(frames, truth)[0].item() == pytest.approx(product, abs=1e-3)


def test_ms_ssim_of_a_negative_is_a_number():
    truth = textured()
    assert ms_ssim(-truth, truth).tolist() == pytest.approx([0] * 4, abs=0.05)


# --------------------------------------------------------------------------------------------- VMAF


@pytest.mark.parametrize("side", [48, 51])
def test_vmaf_ranks_blurred_pictures(side):
    truth = textured(5, side)
    scores = [vmaf(torch.from_numpy(gaussian_filter(truth, blur, axes=(2, 3))), truth) for blur in (0, 2, 4)]
    assert [len(score) for score in scores] == [5, 5, 5]
    means = [score[1:].mean().item() for score in scores]
    assert means[0] > 99 and means[0] > means[1] > means[2] and min(map(min, scores)) >= 0


def test_vmaf_of_one_frame_and_of_tiny_ones():
    assert vmaf(textured(1), textured(1)).shape == (1,)
    assert vmaf(textured(3, 28), textured(3, 28)).isnan().tolist() == [True] * 3


def test_vmaf_says_what_ffmpeg_said(monkeypatch):
    monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", lambda: "/bin/false")
    with pytest.raises(VLFMError, match=r"could not compute VMAF.*libvmaf"):
        vmaf(textured(), textured())


# ----------------------------------------------------------------------------------------- temporal


def test_a_constant_error_costs_no_consistency_and_a_flickering_one_does():
    truth = textured(6).repeat_interleave(1, 0)
    steady, restless = truth + 0.1, truth + 0.1 * torch.tensor([1, -1] * 3).view(6, 1, 1, 1)
    assert (difference_psnr(steady, truth) > 100).all() and difference_psnr(steady, truth).shape == (5,)
    assert difference_psnr(restless, truth).tolist() == pytest.approx([20 * math.log10(2 / 0.2)] * 5, abs=1e-3)
    assert torch.allclose(psnr(steady, truth), psnr(restless, truth), atol=1e-3)
    assert flicker(steady, truth).tolist() == pytest.approx([0] * 4, abs=1e-4)
    assert (flicker(restless, truth) > 0).all()


def test_flicker_leaves_out_what_changes_steadily():
    ramp = torch.linspace(-0.5, 0.5, 7).view(7, 1, 1, 1).expand(7, 3, 8, 8)
    still = torch.zeros(7, 3, 8, 8)
    assert flicker(ramp, still).tolist() == pytest.approx([0] * 5, abs=1e-4)
    jumping = torch.tensor([0, 0.1] * 3 + [0]).view(7, 1, 1, 1).expand(7, 3, 8, 8)
    assert flicker(jumping, still).tolist() == pytest.approx([20 * math.log10(0.2 * 255)] * 5, abs=1e-3)
    # A repeated frame moves twice as far in one step and not at all in the next.
    assert (flicker(ramp[[0, 0, 2, 2, 4, 4, 6]], ramp) > 20).all()


def test_tables_of_metrics_hold_what_they_say():
    truth = textured(5)
    frames = (truth + 0.05).clamp(-1, 1)
    assert {name: metric(frames, truth).shape for name, metric in ALL_METRICS.items()} == dict.fromkeys(
        ("psnr", "psnr_paper", "ssim", "ms_ssim", "vmaf"), (5,)
    )
    assert {name: metric(frames, truth).shape[0] for name, metric in TEMPORAL.items()} == {
        "difference_psnr": 4,
        "flicker": 3,
    }


# ---------------------------------------------------------------------------------------- intervals


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=40), st.integers(0, 5))
def test_the_interval_holds_the_mean_and_repeats(values, seed):
    mean, low, high = mean_interval(values, seed, resamples=200)
    assert mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (mean, low, high) == mean_interval(values, seed, resamples=200)


def test_the_interval_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        _, low, high = mean_interval(generator.normal(30, 2, 40), seed, resamples=500)
        hits += low <= 30 <= high
    assert 87 <= hits <= 100


def test_the_interval_of_little():
    assert mean_interval([3.0])[0] == 3 and np.isnan(mean_interval([3.0])[1:]).all()
    assert mean_interval([3.0, 3.0, float("nan")]) == (3, 3, 3)
    with pytest.raises(VLFMError, match="no number to average"):
        mean_interval([float("nan")])
