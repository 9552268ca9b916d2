"""The cosine basis: analytic truths to 1e-10."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.integrate import fixed_quad

from vlfm.errors import VLFMError
from vlfm.flow.bases import BASES, CosineBasis, LegendreBasis, make_basis
from vlfm.flow.bases.per_clip import BasisPerClip
from vlfm.flow.projection import amplification, frame_times, project, projection_matrix, reconstruct

orders = st.integers(1, 24)
durations = st.floats(0.1, 20.0)


@given(orders, durations, st.integers(1, 60))
def test_orthonormal_over_its_span(order, duration, frames):
    basis = CosineBasis(order, duration, frames)
    start, end = basis.span

    def products(t):
        g = basis.evaluate(torch.from_numpy(t)).numpy()
        return np.einsum("kn,km->nmk", g, g)

    gram = fixed_quad(products, start, end, n=120)[0] / (end - start)
    assert np.abs(gram - np.eye(order)).max() < 1e-10


@given(orders, durations, st.integers(1, 60), st.integers(0, 2**31))
def test_derivative_is_that_of_autograd(order, duration, frames, seed):
    basis = CosineBasis(order, duration, frames)
    t = (torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 - 1) * duration
    slopes = torch.autograd.functional.jacobian(lambda t: basis.evaluate(t).sum(0), t).T
    scale = math.pi * order / duration
    assert (basis.derivative(t) - slopes).abs().max() < 1e-10 * scale


@given(st.integers(1, 40), durations, st.integers(0, 2**31))
def test_exact_at_the_frames_when_there_are_as_many_functions(frames, duration, seed):
    basis = CosineBasis(frames, duration, frames)
    latents = torch.randn(2, frames, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    coefficients = project(latents, projection_matrix(frames, basis))
    back = reconstruct(coefficients, basis.evaluate(frame_times(frames, duration))[None])
    assert (back - latents).abs().max() < 1e-10
    # Parseval at the frames: the mean square of the latents is the energy of H.
    assert coefficients.square().sum(-1) == pytest.approx(latents.square().mean(1), abs=1e-10)


def test_at_the_nominal_frames_it_is_the_dct_ii():
    latents = torch.randn(1, 16, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = project(latents, projection_matrix(16, CosineBasis(9, 2.0, 16)))[0].numpy()
    expected = dct(latents[0].numpy(), type=2, norm="ortho", axis=0)[:9] / 4
    assert np.abs(found - expected.T).max() < 1e-10


@given(orders, durations, st.integers(1, 60))
def test_bounded_a_clip_before_and_a_clip_after(order, duration, frames):
    basis = CosineBasis(order, duration, frames)
    g = basis.evaluate(torch.linspace(-duration, 2 * duration, 400, dtype=torch.float64))
    assert g.abs().max() <= math.sqrt(2) + 1e-12
    assert g.norm(dim=1).max() <= basis.peak + 1e-12
    assert basis.bounded and not LegendreBasis(3, duration).bounded


def test_mirrored_half_a_frame_before_the_first_and_after_the_last():
    basis = CosineBasis(8, 2.0, 10)
    start, end = basis.span
    away = torch.linspace(0, 1, 20, dtype=torch.float64)
    for edge in (start, end):
        assert (basis.evaluate(edge - away) - basis.evaluate(edge + away)).abs().max() < 1e-10


@pytest.mark.parametrize("frames", [6, 12, 48])
def test_every_order_is_safe_between_the_frames(frames):
    for order in range(1, frames + 1):
        basis = CosineBasis(order, 1.0, frames)
        assert amplification(projection_matrix(frames, basis), frame_times(frames, 1.0), basis) <= 1.0
    # Legendre polynomials of the same order are not.
    wild = LegendreBasis(frames, 1.0)
    with pytest.warns(UserWarning, match="amplified"):
        weights = projection_matrix(frames, wild)
    assert amplification(weights, frame_times(frames, 1.0), wild) > 1.5


def test_float32_far_from_zero_is_as_exact_as_its_times():
    basis = CosineBasis(24, 1.0, 24)
    t = torch.arange(1, 25) / 24
    assert (basis.evaluate(t).double() - basis.evaluate(t.double())).abs().max() < 2e-5


def test_clips_of_several_lengths_each_have_their_own():
    bases = [CosineBasis(4, 1.0, frames) for frames in (12, 24)]
    which = torch.tensor([1, 0, 1])
    t = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    several = BasisPerClip(bases, which)
    for row, index in enumerate(which.tolist()):
        for name in ("evaluate", "derivative"):
            assert torch.equal(getattr(several, name)(t)[row], getattr(bases[index], name)(t[row]))
            assert torch.equal(getattr(several, name)(t[:, 0])[row], getattr(bases[index], name)(t[row, 0]))
    with pytest.raises(ValueError, match="one order"):
        BasisPerClip([CosineBasis(4, 1.0, 12), CosineBasis(5, 1.0, 12)], which)


def test_made_by_name():
    assert make_basis("cosine", 4, 2.0, 48) == CosineBasis(4, 2.0, 48)
    assert make_basis("legendre", 4, 2.0, 48) == LegendreBasis(4, 2.0)
    assert make_basis("cosine", 7, 2.0, 48).over(1.0) == CosineBasis(7, 1.0, 48)
    assert {basis.name for basis in BASES.values()} == set(BASES)
    with pytest.raises(VLFMError, match="unknown basis 'wavelet'; there are cosine, legendre"):
        make_basis("wavelet", 4, 2.0, 48)
    with pytest.raises(VLFMError, match="whole number of frames"):
        make_basis("cosine", 4, 2.0, 0)


def test_recurrences_are_legendres():
    with pytest.raises(VLFMError, match="bilinear is a recurrence for Legendre polynomials, not for cosines"):
        projection_matrix(12, CosineBasis(4, 1.0, 12), "bilinear")
