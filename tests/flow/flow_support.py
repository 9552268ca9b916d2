"""What several tests of the mathematics share: signals with known truths, and hypothesis settings."""

import math
from itertools import pairwise

import numpy as np
import torch
from hypothesis import settings
from numpy.polynomial import legendre

# Deadlines measure the machine, which is shared; the seed is fixed so that a failure can be repeated.
property_test = settings(max_examples=40, deadline=None, derandomize=True)
few = settings(max_examples=15, deadline=None, derandomize=True)


def smooth(t):
    """Four smooth signals: (...,) → (..., 4)."""
    return torch.stack(
        [
            torch.sin(2 * math.pi * t),
            torch.cos(3 * t),
            torch.exp(-t) * torch.sin(5 * t),
            1 / (1 + 4 * (t - 0.4) ** 2),
        ],
        -1,
    )


def numpy_basis(t, order, duration):
    """g(t) from numpy's Legendre series, written apart from ours: (K,) → (K, s)."""
    x = 2 * np.asarray(t) / duration - 1
    return np.stack([math.sqrt(2 * n + 1) * legendre.legval(x, np.eye(order)[n]) for n in range(order)], -1)


def continuous_projection(signal, order, duration):
    """`(1/T) ∫ f(t) g(t) dt` by Gauss–Legendre quadrature: (channels, s)."""
    nodes, weights = legendre.leggauss(200)
    t = (nodes + 1) / 2 * duration
    values = np.asarray(signal(torch.tensor(t)))
    return torch.tensor(values.T @ (numpy_basis(t, order, duration) * weights[:, None] / 2))


def orders_of_convergence(errors):
    """log2 of the ratios of errors at resolutions that double."""
    return [math.log2(a / b) for a, b in pairwise(errors)]
