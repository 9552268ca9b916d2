"""The lemmas as measured quantities, on signals whose answer is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from flow_support import numpy_basis, smooth

from vlfm.errors import VLFMError
from vlfm.flow.legendre import LegendreBasis
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.projection import frame_times
from vlfm.flow.schedules import ExactSchedule
from vlfm.flow.theory import closed_form_loss, error_budget, frame_error, held_out_error, timescale_error

pytestmark = pytest.mark.filterwarnings("ignore::vlfm.flow.projection.ProjectionWarning")


def rough(frames, seed=0):
    """Smooth motion with a frame-to-frame jitter of 5 %: (1, N, 4)."""
    noise = torch.randn(frames, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (smooth(frame_times(frames, 1.0)) + 0.05 * noise)[None]


def test_frame_error_falls_with_the_order():
    """Lemma F.1, and nothing is left of a polynomial; one order short, what numpy's least squares leaves."""
    errors = [float(frame_error(rough(48), order, 1.0)) for order in (1, 2, 4, 8, 16, 32)]
    assert all(a > b for a, b in pairwise(errors))
    basis = numpy_basis(frame_times(20, 1.0), 4, 1.0)
    cubic = torch.tensor(basis)[None]
    assert float(frame_error(cubic, 4, 1.0)) < 1e-13
    _, left, *_ = np.linalg.lstsq(basis[:, :3], basis[:, 3], rcond=None)
    assert float(frame_error(cubic, 3, 1.0)) == pytest.approx(math.sqrt(left[0] / 20 / 4))


def test_held_out_error_has_a_best_order():
    """Lemma 5.2: first the polynomial gains, then it swings between the frames."""
    errors = {order: float(held_out_error(rough(49), order, 1.0)) for order in (1, 2, 6, 12, 18, 24)}
    best = min(errors, key=errors.get)
    assert 2 < best < 18 and errors[24] > 100 * errors[best] and errors[1] > 3 * errors[best]


def test_held_out_error_looks_only_between_observed_frames():
    """A line is reproduced wherever it is looked at, so the error of a spike shows where that is."""
    for spike in range(12):
        latents = torch.zeros(1, 12, 1, dtype=torch.float64)
        latents[0, spike] = 1.0
        error = float(held_out_error(latents, 1, 1.0, every=3))
        observed = spike in (2, 5, 8, 11)
        outside = spike in (0, 1)
        expected = 0.25 if observed else 0.0 if outside else math.sqrt(1 / 6)
        assert error == pytest.approx(expected, abs=1e-12)
    with pytest.raises(VLFMError, match="more frames"):
        held_out_error(torch.zeros(1, 3, 1), 1, 1.0)


def test_timescale_error_is_that_of_sampling():
    """Lemma 5.4: nothing for a polynomial, little for a smooth clip, more at a coarser rate."""
    cubic = torch.tensor(numpy_basis(frame_times(24, 1.0), 4, 1.0))[None]
    for factor in (1, 2, 3):
        assert float(timescale_error(cubic, 4, 1.0, factor)) < 1e-12
    clip = smooth(frame_times(96, 1.0))[None]
    twice, thrice = (float(timescale_error(clip, 8, 1.0, factor, "zoh")) for factor in (2, 3))
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
