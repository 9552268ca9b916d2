"""The basis against numpy's Legendre series, quadrature and autograd."""

import math

import numpy as np
import pytest
import torch
from flow_support import numpy_basis, property_test
from hypothesis import given
from hypothesis import strategies as st

from vlfm.errors import VLFMError
from vlfm.flow.bases import LegendreBasis

orders = st.integers(1, 24)
durations = st.floats(0.05, 60)


@property_test
@given(orders, durations)
def test_matches_numpy(order, duration):
    t = torch.linspace(0, duration, 37, dtype=torch.float64)
    ours = LegendreBasis(order, duration).evaluate(t)
    np.testing.assert_allclose(ours, numpy_basis(t, order, duration), rtol=0, atol=1e-11)


@property_test
@given(orders, durations)
def test_is_orthonormal_under_the_uniform_measure(order, duration):
    nodes, weights = np.polynomial.legendre.leggauss(order)
    g = LegendreBasis(order, duration).evaluate(torch.tensor((nodes + 1) / 2 * duration))
    gram = g.T @ (g * torch.tensor(weights / 2)[:, None])
    torch.testing.assert_close(gram, torch.eye(order, dtype=torch.float64), rtol=0, atol=1e-11)


@property_test
@given(orders, durations)
def test_derivative_is_autograds(order, duration):
    basis = LegendreBasis(order, duration)
    t = torch.linspace(0, duration, 23, dtype=torch.float64)
    exact = torch.autograd.functional.jacobian(lambda x: basis.evaluate(x).sum(0), t).T
    ours = basis.derivative(t)
    assert (ours - exact).abs().max() <= 1e-9 * max(1, exact.abs().max())


def test_end_values_and_bound():
    basis = LegendreBasis(12, 2.0)
    scale = torch.sqrt(2 * torch.arange(12.0, dtype=torch.float64) + 1)
    signs = (-1.0) ** torch.arange(12)
    ends = basis.evaluate(torch.tensor([0.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.stack([scale * signs, scale]))
    inside = basis.evaluate(torch.linspace(0, 2, 999, dtype=torch.float64)).abs()
    assert (inside <= scale + 1e-12).all()


def test_growth_beyond_the_clip_is_what_d7_states():
    basis = LegendreBasis(17, 2.0)
    at_8 = basis.evaluate(torch.tensor(8.0, dtype=torch.float64))
    for n, stated in ((4, 3e4), (8, 1e9), (16, 1.6e18)):
        assert 0.5 * stated < at_8[n] < 2 * stated


@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes_follow_the_times(shape, dtype):
    basis = LegendreBasis(1, 1.0), LegendreBasis(5, 1.0)
    t = torch.rand(shape, dtype=dtype)
    for b in basis:
        assert b.evaluate(t).shape == b.derivative(t).shape == (*shape, b.order)
        assert b.evaluate(t).dtype == b.derivative(t).dtype == dtype


def test_order_one_is_constant():
    basis = LegendreBasis(1, 3.0)
    t = torch.linspace(0, 3, 7)
    assert (basis.evaluate(t) == 1).all() and (basis.derivative(t) == 0).all()


@pytest.mark.parametrize("order, duration", [(0, 1.0), (2.5, 1.0), (True, 1.0), (3, 0.0), (3, math.nan), (3, math.inf)])
def test_refuses_what_is_no_basis(order, duration):
    with pytest.raises(VLFMError):
        LegendreBasis(order, duration)
