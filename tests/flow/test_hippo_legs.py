"""A, B and the discretisations against scipy and against the definition of the LegS projection."""

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from vlfm.flow.bases import LegendreBasis
from vlfm.flow.hippo_legs import METHODS, legs_matrices, legs_step

ORDERS = (1, 2, 5, 16)


def published(order):
    """Definitions D.1 and D.2 entry by entry, indices from 0."""
    a = np.zeros((order, order))
    for n in range(order):
        for k in range(order):
            if n > k:
                a[n, k] = ((2 * n + 1) * (2 * k + 1)) ** 0.5
            elif n == k:
                a[n, k] = n + 1
    return a, np.array([(2 * n + 1) ** 0.5 for n in range(order)])


@pytest.mark.parametrize("order", ORDERS)
def test_matrices_are_the_published_ones(order):
    a, b = legs_matrices(order)
    expected_a, expected_b = published(order)
    np.testing.assert_allclose(a, expected_a, rtol=1e-15)
    np.testing.assert_allclose(b, expected_b, rtol=1e-15)


def test_matrices_follow_from_the_basis():
    """`d/dt` of `c_n(t) = (1/t) ∫₀ᵗ f g_n(x; t) dx` is `(−A c + B f)/t`: checked by quadrature, f = cos."""
    order, t, step = 7, 1.3, 1e-5
    nodes, weights = np.polynomial.legendre.leggauss(60)

    def coefficients(end):
        x = torch.tensor((nodes + 1) / 2 * end)
        return LegendreBasis(order, end).evaluate(x).T @ (torch.cos(x) * torch.tensor(weights / 2))

    slope = (coefficients(t + step) - coefficients(t - step)) / (2 * step)
    a, b = legs_matrices(order)
    expected = (-a @ coefficients(t) + b * np.cos(t)) / t
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-8)


SCIPY = {"euler": "euler", "backward": "backward_diff", "bilinear": "bilinear"}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("start, end", [(0.0, 1.0), (2.0, 3.0), (47.0, 48.0), (0.4, 1.7)])
@pytest.mark.parametrize("method", METHODS)
def test_steps_match_scipy(method, order, start, end):
    a, b = published(order)
    system = (-a, b[:, None], np.eye(order), np.zeros((order, 1)))
    ours_a, ours_b = legs_step(order, start, end, method)
    if method == "zoh":
        if start == 0:  # the limit of an infinite step in log time: the constant is projected on e_0
            expected_a, expected_b = np.zeros((order, order)), np.eye(order)[0]
        else:
            span = np.log(end / start)
            expected_a, expected_b, *_ = scipy.signal.cont2discrete(system, span, "zoh")
            np.testing.assert_allclose(ours_a, scipy.linalg.expm(-a * span), atol=1e-11)
    else:
        r = (end - start) / end
        expected_a, expected_b, *_ = scipy.signal.cont2discrete(system, r, SCIPY[method])
    np.testing.assert_allclose(ours_a, expected_a, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(ours_b, np.asarray(expected_b).reshape(-1), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_is_a_fixed_point(method):
    """c = e_0 is the projection of f = 1, and `A e_0 = B`, so no method may move it."""
    transition, drive = legs_step(9, 3.0, 4.5, method)
    unit = torch.eye(9, dtype=torch.float64)[0]
    torch.testing.assert_close(transition @ unit + drive, unit, rtol=0, atol=1e-11)


def test_unknown_method():
    with pytest.raises(ValueError, match="unknown LegS"):
        legs_step(3, 0.0, 1.0, "heun")
