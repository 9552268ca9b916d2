import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlfm.errors import VLFMError
from vlfm.evaluation.generation.distances import diversity, frechet, frechet_distance, precision_recall

SEEDS = st.integers(0, 2**32 - 1)


def gaussian(seed, count=60, dims=4):
    """Features with exactly the mean 0 and the covariance 1."""
    values = np.random.default_rng(seed).normal(size=(count, dims))
    values = values - values.mean(0)
    return values @ np.linalg.inv(np.linalg.cholesky(np.cov(values, rowvar=False))).T


# ------------------------------------------------------------------------------------------ Fréchet


def test_frechet_of_gaussians_whose_covariances_commute():
    """Σ (m − m')² + (σ − σ')²."""
    shifts, spreads = np.array([0, 1, 2, 0.5]), np.array([1, 3, 0.5, 2])
    expected = np.square(shifts).sum() + np.square(spreads - 1).sum()
    assert frechet(gaussian(0) * spreads + shifts, gaussian(1)) == pytest.approx(expected, rel=1e-12)


def test_frechet_of_any_gaussians_against_the_formula():
    from scipy.linalg import sqrtm

    random = np.random.default_rng(0)
    mixing = random.normal(size=(2, 4, 4))
    ours, theirs = gaussian(0) @ mixing[0] + 1, gaussian(1) @ mixing[1]
    spreads = [np.cov(values, rowvar=False) for values in (ours, theirs)]
    expected = 4 + np.trace(spreads[0] + spreads[1] - 2 * sqrtm(spreads[0] @ spreads[1]).real)
    assert frechet(ours, theirs) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(8, 40), st.integers(1, 6), st.floats(-1e3, 1e3))
def test_frechet_is_a_distance_of_sets(seed, count, dims, shift):
    random = np.random.default_rng(seed)
    ours, theirs = random.normal(size=(count, dims)), random.normal(size=(count + 3, dims)) * 2
    distance = frechet(ours, theirs)
    assert distance >= 0
    assert frechet(theirs, ours) == pytest.approx(distance, rel=1e-9, abs=1e-9)
    assert frechet(ours[random.permutation(count)], theirs) == pytest.approx(distance, rel=1e-9, abs=1e-9)
    assert frechet(ours + shift, theirs + shift) == pytest.approx(distance, rel=1e-6, abs=1e-6)
    assert frechet(ours + shift, ours) == pytest.approx(dims * shift**2, rel=1e-9, abs=1e-9)
    turn = np.linalg.qr(random.normal(size=(dims, dims)))[0]
    assert frechet(ours @ turn, theirs @ turn) == pytest.approx(distance, rel=1e-9, abs=1e-9)
    assert frechet(ours, ours) == pytest.approx(0, abs=1e-12)


def test_frechet_of_few_samples_is_refused_or_measured_along_few_directions():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(20, 30)) * 0.01, random.normal(size=(20, 30)) * 0.01
    ours[:, 7] += 3
    with pytest.raises(VLFMError, match=r"30 dimensions needs .* there are 20; give more clips, or components="):
        frechet(ours, theirs)
    assert frechet(ours, theirs, components=1) == pytest.approx(9, rel=0.02)
    assert frechet(ours, theirs, components=1) == pytest.approx(frechet(theirs, ours, components=1))
    assert frechet(ours[:, :4], theirs[:, :4], components=4) == pytest.approx(frechet(ours[:, :4], theirs[:, :4]))
    assert np.isfinite(frechet_distance(ours, theirs))


def test_what_is_no_pair_of_features_is_refused():
    with pytest.raises(VLFMError, match="at least 2 clips"):
        frechet_distance(gaussian(0)[:1], gaussian(1))
    with pytest.raises(VLFMError, match=r"\(60, 3\) and \(60, 4\)"):
        frechet(gaussian(0)[:, :3], gaussian(1))
    with pytest.raises(VLFMError, match="not all finite"):
        frechet(gaussian(0) * np.nan, gaussian(1))


# ----------------------------------------------------------------------------- precision and recall


def test_precision_and_recall_of_sets_that_are_known():
    """Two true clusters; half of the generated clips lie in one of them, half far from both."""
    random = np.random.default_rng(0)
    left, right = random.uniform(size=(50, 2)), random.uniform(size=(50, 2)) + 100
    generated = np.concatenate([random.uniform(0.2, 0.8, size=(30, 2)), random.uniform(size=(30, 2)) - 1000])
    precise, covered = precision_recall(np.concatenate([left, right]), generated)
    assert precise.tolist() == [1] * 30 + [0] * 30
    assert covered[:50].mean() > 0.36 and covered[50:].tolist() == [0] * 50


def test_precision_and_recall_against_the_definition_on_a_line():
    real, generated = np.array([[0.0], [1], [2], [10]]), np.array([[3.0], [3.5], [-1.5], [19]])
    # k = 1: the balls reach 1, 1, 1 and 8 around the real ones; 0.5, 0.5, 4.5 and 15.5 around the generated ones.
    precise, covered = precision_recall(real, generated, k=1)
    assert precise.tolist() == [1, 1, 0, 0]
    assert covered.tolist() == [1, 1, 1, 1]


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_precision_and_recall_of_a_set_with_itself_and_swapped(seed, k):
    random = np.random.default_rng(seed)
    ours, theirs = random.normal(size=(12, 3)), random.normal(size=(15, 3)) + 0.5
    assert [values.mean() for values in precision_recall(ours, ours, k)] == [1, 1]
    precise, covered = precision_recall(ours, theirs, k)
    assert len(precise) == 15 and len(covered) == 12
    swapped = precision_recall(theirs, ours, k)
    assert (precise == swapped[1]).all() and (covered == swapped[0]).all()
    assert (precise <= precision_recall(ours, theirs, k + 1)[0]).all()
    order = random.permutation(15)
    assert (precision_recall(ours, theirs[order], k)[0] == precise[order]).all()


def test_precision_needs_neighbours():
    with pytest.raises(VLFMError, match=r"k = 3 need more than 3 clips .* 3 real and 60 generated"):
        precision_recall(gaussian(0)[:3], gaussian(1))


# ---------------------------------------------------------------------------------------- diversity


def test_diversity_is_the_mean_distance_within_a_caption():
    features = np.array([[0.0, 0], [9, 9], [3, 4], [9, 9], [0, 4], [7, 7]])
    found = diversity(features, ["a", "b", "a", "b", "a", "c"])
    assert found[:2].tolist() == pytest.approx([(5 + 4 + 3) / 3, 0]) and np.isnan(found[2])
    with pytest.raises(VLFMError, match="6 feature vectors but 2 groups"):
        diversity(features, ["a", "b"])


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(-100, 100), st.floats(0.1, 10))
def test_diversity_does_not_depend_on_place_and_grows_with_scale(seed, shift, scale):
    features = np.random.default_rng(seed).normal(size=(9, 3))
    groups = [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert diversity(features * scale + shift, groups) == pytest.approx(diversity(features, groups) * scale, rel=1e-6)
