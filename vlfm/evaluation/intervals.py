"""Means of one number a clip, with their intervals."""

import warnings
from collections.abc import Sequence

import numpy as np

from vlfm.errors import VLFMError


def mean_interval(
    values: Sequence[float] | np.ndarray, seed: int = 0, confidence: float = 0.95, resamples: int = 9999
) -> tuple[float, float, float]:
    """The mean of one number per clip, and its confidence interval: `mean, low, high`.

    A bias-corrected bootstrap over clips (BCa; Efron, 1987), seeded. Frames of a clip are no independent
    evidence: average them first. NaNs (a metric that does not apply) are left out. One clip has no interval: its
    bounds are NaN.

    Raises:
        VLFMError: if no number is left.
    """
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise VLFMError("there is no number to average: every clip's is missing")
    mean = float(values.mean())
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    if np.ptp(values) <= 1e-12 * max(1.0, np.abs(values).max()):
        return mean, mean, mean
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bootstrap(
            (values,),
            np.mean,
            confidence_level=confidence,
            n_resamples=resamples,
            batch=max(1, 2_000_000 // len(values)),
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return mean, float(found.low), float(found.high)
