"""The lemmas as measured quantities, on signals whose answer is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from flow_support import numpy_basis, smooth

from vlfm.errors import VLFMError
from vlfm.flow.bases import LegendreBasis
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.projection import frame_times
from vlfm.flow.schedules import ExactSchedule
from vlfm.flow.theory import (
    closed_form_loss,
    dilation_error,
    error_budget,
    frame_error,
    held_out_error,
    lipschitz_quotient,
    steepest_step,
    timescale_error,
)

pytestmark = pytest.mark.filterwarnings("ignore::vlfm.flow.projection.ProjectionWarning")


def rough(frames, seed=0):
    """Smooth motion with a frame-to-frame jitter of 5 %: (1, N, 4)."""
    noise = torch.randn(frames, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (smooth(frame_times(frames, 1.0)) + 0.05 * noise)[None]


def test_frame_error_falls_with_the_order():
    """Lemma F.1, and nothing is left of a polynomial; one order short, what numpy's least squares leaves."""
    errors = [float(frame_error(rough(48), LegendreBasis(order, 1.0))) for order in (1, 2, 4, 8, 16, 32)]
    assert all(a > b for a, b in pairwise(errors))
    basis = numpy_basis(frame_times(20, 1.0), 4, 1.0)
    cubic = torch.tensor(basis)[None]
    assert float(frame_error(cubic, LegendreBasis(4, 1.0))) < 1e-13
    _, left, *_ = np.linalg.lstsq(basis[:, :3], basis[:, 3], rcond=None)
    assert float(frame_error(cubic, LegendreBasis(3, 1.0))) == pytest.approx(math.sqrt(left[0] / 20 / 4))


def test_held_out_error_has_a_best_order():
    """Lemma 5.2: first the polynomial gains, then it swings between the frames."""
    errors = {order: float(held_out_error(rough(49), LegendreBasis(order, 1.0))) for order in (1, 2, 6, 12, 18, 24)}
    best = min(errors, key=errors.get)
    assert 2 < best < 18 and errors[24] > 100 * errors[best] and errors[1] > 3 * errors[best]


def test_held_out_error_looks_only_between_observed_frames():
    """A line is reproduced wherever it is looked at, so the error of a spike shows where that is."""
    for spike in range(12):
        latents = torch.zeros(1, 12, 1, dtype=torch.float64)
        latents[0, spike] = 1.0
        error = float(held_out_error(latents, LegendreBasis(1, 1.0), every=3))
        observed = spike in (2, 5, 8, 11)
        outside = spike in (0, 1)
        expected = 0.25 if observed else 0.0 if outside else math.sqrt(1 / 6)
        assert error == pytest.approx(expected, abs=1e-12)
    with pytest.raises(VLFMError, match="more frames"):
        held_out_error(torch.zeros(1, 3, 1), LegendreBasis(1, 1.0))


def test_timescale_error_is_that_of_sampling():
    """Lemma 5.4: nothing for a polynomial, little for a smooth clip, more at a coarser rate."""
    cubic = torch.tensor(numpy_basis(frame_times(24, 1.0), 4, 1.0))[None]
    for factor in (1, 2, 3):
        assert float(timescale_error(cubic, LegendreBasis(4, 1.0), factor)) < 1e-12
    clip = smooth(frame_times(96, 1.0))[None]
    twice, thrice = (float(timescale_error(clip, LegendreBasis(8, 1.0), factor, "zoh")) for factor in (2, 3))
    assert 0 < twice < thrice < 0.1


def test_closed_form_loss_is_zero_and_any_other_larger():
    path = VideoLatentPath(LegendreBasis(4, 1.0), ExactSchedule(8, 1.0))
    generator = torch.Generator().manual_seed(0)
    h = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    z = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(2, 50, generator=generator, dtype=torch.float64)
    assert float(closed_form_loss(path, h, z, t)) < 1e-20
    small = float(closed_form_loss(path, h, z, t, 1e-3 * torch.randn(h.shape, generator=generator).double()))
    large = float(closed_form_loss(path, h, z, t, 1e-1 * torch.randn(h.shape, generator=generator).double()))
    assert 1e-12 < small < large


@pytest.mark.parametrize("predicted", [False, True])
def test_error_budget_bounds_the_total(predicted):
    path = VideoLatentPath(LegendreBasis(6, 1.0), ExactSchedule(12, 1.0, 0.05, 0.2))
    latents = rough(48)
    observed = torch.arange(1, 49) % 4 == 0
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    guess = torch.zeros(1, 4, 6, dtype=torch.float64) if predicted else None
    budget = error_budget(latents, observed, path, z, guess)
    assert budget.total.shape == budget.bound.shape == (1, len(budget.times)) and budget.times[0] >= 1 / 12
    assert (budget.total <= budget.bound + 1e-12).all()
    assert bool((budget.network > 0).all()) is predicted
    sigma = path.schedule.sigma(budget.times)[0]
    torch.testing.assert_close(budget.noise[0], sigma * z.norm())
    for term in (budget.projection, budget.noise, budget.interpolation):
        assert (term > 0).all()
    everything = error_budget(latents, torch.ones(48, dtype=torch.bool), path, z)
    assert everything.interpolation.max() < 1e-12


def uneven(frames):
    """Times like a camera's: increasing, not evenly, the last before T = 1."""
    steps = 1 + 0.3 * torch.rand(frames, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return steps.cumsum(0) / steps.sum() * 0.97


def test_true_times_are_used_where_given():
    times = uneven(24)
    cubic = torch.tensor(numpy_basis(times, 4, 1.0))[None]
    path = VideoLatentPath(LegendreBasis(4, 1.0), ExactSchedule(24, 1.0))
    z = torch.zeros(1, 4, dtype=torch.float64)
    everything = torch.ones(24, dtype=torch.bool)
    basis = path.basis
    assert float(frame_error(cubic, basis, times=times)) < 1e-12 < 1e-4 < float(frame_error(cubic, basis))
    assert float(held_out_error(cubic, basis, times=times)) < 1e-12 < 1e-4 < float(held_out_error(cubic, basis))
    assert float(timescale_error(cubic, basis, 2, times=times)) < 1e-12 < 1e-4 < float(timescale_error(cubic, basis, 2))
    budget = error_budget(cubic, everything, path, z, times=times)
    assert budget.projection.max() < 1e-12
    assert torch.equal(budget.times, times[times >= 1 / 24])
    with pytest.raises(VLFMError, match="as many times"):
        frame_error(cubic, LegendreBasis(4, 1.0), times=times[:-1])
    with pytest.raises(VLFMError, match="increase"):
        frame_error(cubic, LegendreBasis(4, 1.0), times=times.flip(0))


@pytest.mark.parametrize("order", [1, 2])
def test_held_out_hybrid_of_low_order_is_the_straight_line(order):
    clip, times = rough(13), frame_times(13, 1.0).numpy()
    between = [2, 4, 6, 8, 10]
    given = clip[0, 1::2].numpy()
    lines = np.stack([np.interp(times[between], times[1::2], given[:, c]) for c in range(4)], -1)
    expected = np.sqrt(np.mean((lines - clip[0, between].numpy()) ** 2))
    assert float(held_out_error(clip, LegendreBasis(order, 1.0), kind="hybrid")) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["lstsq", "euler", "backward", "bilinear", "zoh"])
@pytest.mark.parametrize("factor", [2, 3])
def test_speed_does_not_change_the_coefficients(method, factor):
    assert float(dilation_error(rough(24), LegendreBasis(6, 1.0), factor, method, times=uneven(24))) < 1e-12


def test_lipschitz_quotient_of_a_linear_map_lies_between_its_singular_values():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(7, 6, generator=generator, dtype=torch.float64)
    _, singular, vt = torch.linalg.svd(matrix, full_matrices=False)
    points = torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)

    def decode(x):
        return x.flatten(1) @ matrix.T + 1

    along = lipschitz_quotient(decode, points, vt.reshape(6, 2, 3))
    torch.testing.assert_close(along, singular)
    torch.testing.assert_close(lipschitz_quotient(decode, points, vt.reshape(6, 2, 3), decode(points)), singular)
    assert lipschitz_quotient(decode, points, torch.zeros_like(points)).isnan().all()


def test_steepest_step_is_the_power_iteration():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0] for _ in range(2))
    matrix = left @ torch.diag(torch.tensor([9.0, 3, 2, 1, 0.5, 0.1], dtype=torch.float64)) @ right.T
    points, start = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    found = [steepest_step(lambda x: x @ matrix.T, points, start, n)[1] for n in (0, 1, 3, 8)]
    torch.testing.assert_close(found[0], lipschitz_quotient(lambda x: x @ matrix.T, points, start))
    assert all((later >= sooner - 1e-12).all() for sooner, later in pairwise(found))
    torch.testing.assert_close(found[-1], torch.full((4,), 9.0, dtype=torch.float64), rtol=1e-9, atol=0)
    step, quotient = steepest_step(lambda x: x @ matrix.T, points, start, 8)
    torch.testing.assert_close(step.norm(dim=1), start.norm(dim=1))
    torch.testing.assert_close(lipschitz_quotient(lambda x: x @ matrix.T, points, step), quotient)


def test_steepest_step_stays_put_on_a_flat_decoder_and_belongs_to_actual_points():
    flat, quotient = steepest_step(lambda x: (x * 0).sum(1, keepdim=True), torch.ones(2, 3), torch.ones(2, 3), 3)
    assert quotient.tolist() == [0, 0] and torch.isfinite(flat).all()
    # sin has slope 1 at 0 only in the limit: a finite step's quotient must stay below.
    step, quotient = steepest_step(torch.sin, torch.zeros(1, 2), torch.tensor([[0.6, 0.8]]), 5)
    torch.testing.assert_close(lipschitz_quotient(torch.sin, torch.zeros(1, 2), step), quotient)
    assert 0.8 < float(quotient) < 1


def test_steepest_step_keeps_the_best_it_met():
    """A bump just short of the circle: its slope points to the far side, where there is nothing."""

    def bump(x):
        return torch.exp(-10 * ((x[:, :1] - 0.9) ** 2 + x[:, 1:] ** 2))

    points, start = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    step, quotient = steepest_step(bump, points, start, 1)
    assert torch.equal(step, start)
    torch.testing.assert_close(quotient, lipschitz_quotient(bump, points, start))
