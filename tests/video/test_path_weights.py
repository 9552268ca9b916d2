"""Paths as matrices: against the paths themselves, exact where they must be, sane on irregular times."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from vlfm.errors import VLFMError
from vlfm.flow.bases import BASES, make_basis
from vlfm.flow.interpolation import clip_path
from vlfm.flow.tails import TAILS, ExtendedPath
from vlfm.video.path_weights import KINDS, path_weights, tail_weights

gaps = st.lists(st.floats(0.005, 0.5), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(gaps, st.floats(-100, 1e4), st.sampled_from(KINDS), st.integers(1, 9))
def test_rows_sum_to_one_and_frames_are_exact(gaps, origin, kind, order):
    """A still picture stays still, and all but the polynomial pass through the frames."""
    times = origin + np.cumsum([0, *gaps])
    at = np.linspace(times[0] - 0.1, times[-1] + 0.1, 37)
    np.testing.assert_allclose(path_weights(kind, times, at, order).sum(1), 1, atol=1e-7)
    if kind != "projected":
        np.testing.assert_allclose(path_weights(kind, times, times, order), np.eye(len(times)), atol=1e-7)
        np.testing.assert_allclose(path_weights(kind, times, at[:1], order)[0], np.eye(len(times))[0], atol=1e-7)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("kind", ["projected", "hybrid"])
def test_matrix_is_the_path(kind, basis):
    random = np.random.default_rng(0)
    times, values = np.cumsum(random.uniform(0.03, 0.05, 10)), torch.as_tensor(random.normal(size=(10, 3)))
    at = np.linspace(times[0], times[-1], 23)
    start = times[0] - (times[-1] - times[0]) / 9  # a clip begins one interval before its first frame
    functions = make_basis(basis, 4, times[-1] - start, 10)
    path = clip_path(values[None], functions, kind, torch.as_tensor(times - start))
    expected = path.evaluate(torch.as_tensor(at - start))[0].numpy()
    found = path_weights(kind, times, at, 4, basis=basis) @ values.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for tail in TAILS:
        after = times[-1] + np.array([0.0, 0.02, 0.05])
        expected = ExtendedPath(path, tail).evaluate(torch.as_tensor(after - start))[0].numpy()
        found = tail_weights(tail, times, after, kind, 4, basis) @ values.numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_cubic_is_scipys():
    times, values = np.array([0.0, 0.1, 0.25, 0.3, 0.5]), np.array([1.0, -2, 0.5, 3, 1])
    at = np.linspace(0, 0.5, 31)
    np.testing.assert_allclose(path_weights("cubic", times, at) @ values, CubicSpline(times, values)(at), atol=1e-5)


def test_repeat_and_nearest():
    times = [10.0, 10.1, 10.4]
    at = [9.0, 10.0, 10.04, 10.05, 10.09, 10.26, 10.5]
    assert path_weights("repeat", times, at).argmax(1).tolist() == [0, 0, 0, 0, 0, 1, 2]
    assert path_weights("nearest", times, at).argmax(1).tolist() == [0, 0, 0, 0, 1, 2, 2]


def test_irregular_times_lower_the_order_instead_of_swinging():
    """Five frames close together and one far away: a fifth-degree polynomial would swing wildly in the gap."""
    times = np.array([0, 0.01, 0.02, 0.03, 0.04, 2.0])
    weights = path_weights("hybrid", times, np.linspace(0.04, 2, 50), order=6)
    assert np.abs(weights).sum(1).max() < 6


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_few_frames(kind, count):
    times = np.arange(count) / 24
    weights = path_weights(kind, times, np.array([0.0, 0.01]), order=5)
    assert weights.shape == (2, count) and np.isfinite(weights).all()
    assert tail_weights("hold", times, times[-1:] + 1, "hybrid").shape == (1, count)


def test_the_same_geometry_is_made_once():
    first = path_weights("hybrid", np.arange(8) / 24, np.arange(16) / 48, 3)
    later = path_weights("hybrid", 977 / 24 + np.arange(8) / 24, 977 / 24 + np.arange(16) / 48, 3)
    assert later is first


@pytest.mark.parametrize(
    "kind, times, said",
    [
        ("spline", [0, 1], "unknown path"),
        ("linear", [0, 0], "increase strictly"),
        ("linear", [0, np.nan], "finite"),
        ("linear", [], "flat lists"),
    ],
)
def test_nonsense_is_refused(kind, times, said):
    with pytest.raises(VLFMError, match=said):
        path_weights(kind, times, [0.5])
    with pytest.raises(VLFMError, match="unknown tail"):
        tail_weights("fade", [0, 1], [2.0])
