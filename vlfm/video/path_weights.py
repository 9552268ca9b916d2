"""Every path through given frames is linear in them: its values at K instants are one (K, N) matrix times N frames.

The matrix depends on the times alone, not on the picture: it is made once for a geometry, in float64, by sending
the identity through the path itself. The product is then all the work there is: `2KN` operations a pixel or latent
value, `N` values read and `K` written.
"""

import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.interpolate import CubicSpline

from vlfm.errors import VLFMError
from vlfm.flow.bases import make_basis
from vlfm.flow.interpolation import PATHS, clip_path
from vlfm.flow.projection import ProjectionWarning, amplification, check_times, projection_matrix
from vlfm.flow.tails import TAILS, ExtendedPath

KINDS = ("repeat", "nearest", "linear", "cubic", *PATHS)
GRID = 1e-7  # seconds: times are rounded to it, so that the same geometry is the same matrix wherever it comes
DEFAULT_BASIS = "cosine"
AMPLIFICATION = 2.0  # how much louder than the frames noise may be between them


def path_weights(
    kind: str,
    times: Sequence[float] | np.ndarray,
    instants: Sequence[float] | np.ndarray,
    order: int = 5,
    ridge: float = 0.0,
    basis: str = DEFAULT_BASIS,
) -> np.ndarray:
    """The weights of N frames in the path's values at K instants, (K, N) float64; rows sum to 1 (without a ridge).

    Args:
        kind: `repeat` (the frame before), `nearest` (the earlier one of a tie), `linear`, `cubic` (spline,
            not-a-knot), `projected` (the paper's with `legendre`), `hybrid` (projected plus linearly interpolated
            residual).
        times: (N,) seconds, strictly increasing, any origin.
        instants: (K,) seconds. Outside the frames' own span the first or the last value holds.
        order, ridge: of the projection. The order is lowered to N and until independent noise on the frames is not
            more than doubled between them: irregular times do not carry high orders.
        basis: of the projection, `legendre` (the paper's) or `cosine`.

    Raises:
        VLFMError: for an unknown kind, times that do not increase, numbers out of range.
    """
    if kind not in KINDS:
        raise VLFMError(f"unknown path {kind!r}; there are {', '.join(KINDS)}")
    times, instants = np.asarray(times, dtype=np.float64), np.asarray(instants, dtype=np.float64)
    if times.ndim != 1 or instants.ndim != 1 or not len(times):
        raise VLFMError(f"times and instants must be flat lists; they are {times.shape} and {instants.shape}")
    if not (np.isfinite(times).all() and np.isfinite(instants).all()):
        raise VLFMError("times and instants must be finite seconds; some are NaN or infinite")
    return _weights(kind, _grid(times - times[0]), _grid(instants - times[0]), int(order), float(ridge), basis)


def tail_weights(
    tail: str,
    times: Sequence[float] | np.ndarray,
    instants: Sequence[float] | np.ndarray,
    kind: str = "hybrid",
    order: int = 5,
    basis: str = DEFAULT_BASIS,
) -> np.ndarray:
    """The weights of N frames in the values at K instants after the last of them, (K, N) float64.

    Args:
        tail: see `vlfm.flow.tails.ExtendedPath`.
        times: (N,) seconds, strictly increasing. instants: (K,) seconds, at or after the last.
        kind: `projected`, `hybrid`, or `linear`, which is a hybrid of order 1.
        order, basis: of the projection, as in `path_weights`.

    Raises:
        VLFMError: for an unknown tail or path, and for the tail `continued` past its stated growth.
    """
    if tail not in TAILS:
        raise VLFMError(f"unknown tail {tail!r}; there are {', '.join(TAILS)}")
    times, instants = np.asarray(times, dtype=np.float64), np.asarray(instants, dtype=np.float64)
    if kind == "linear":
        kind, order = "hybrid", 1
    local, wanted = np.asarray(_grid(times - times[0])), np.asarray(_grid(instants - times[0]))
    if len(local) == 1:
        return np.ones((len(wanted), 1))
    path, lead = _identity_path(kind, tuple(local), order, 0.0, basis)
    return ExtendedPath(path, tail).evaluate(torch.as_tensor(wanted) + lead)[0].numpy()


def _grid(values: np.ndarray) -> tuple[float, ...]:
    return tuple((np.round(values / GRID) * GRID).tolist())


@lru_cache(maxsize=256)
def _weights(
    kind: str, times: tuple[float, ...], instants: tuple[float, ...], order: int, ridge: float, basis: str
) -> np.ndarray:
    knots = check_times(times, max(times[-1], GRID)).numpy()
    at = np.clip(np.asarray(instants), knots[0], knots[-1])
    count = len(knots)
    if count == 1:
        weights = np.ones((len(at), 1))
    elif kind in ("repeat", "nearest"):
        before = np.searchsorted(knots, at, side="right") - 1
        after = np.minimum(before + 1, count - 1)
        later = (kind == "nearest") & (knots[after] - at < at - knots[before] - GRID)
        weights = np.eye(count)[np.where(later, after, before)]
    elif kind == "linear":
        weights = np.stack([np.interp(at, knots, row) for row in np.eye(count)], -1)
    elif kind == "cubic":
        weights = CubicSpline(knots, np.eye(count))(at)
    else:
        path, lead = _identity_path(kind, times, order, ridge, basis)
        weights = path.evaluate(torch.as_tensor(at) + lead)[0].numpy()
    weights.flags.writeable = False
    return weights


def _identity_path(kind: str, times: tuple[float, ...], order: int, ridge: float, basis: str):
    """The path, and the seconds by which it lies later than `times`: as in clips, its first frame is one after 0."""
    lead = times[-1] / (len(times) - 1)
    knots, duration = torch.tensor(times, dtype=torch.float64) + lead, times[-1] + lead
    eye = torch.eye(len(times), dtype=torch.float64)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ProjectionWarning)  # what it warns of is mended here
        order = min(order, len(times))
        while order > 1 and not ridge:
            functions = make_basis(basis, order, duration, len(times))
            if amplification(projection_matrix(knots, functions), knots, functions) <= AMPLIFICATION:
                break
            order -= 1
        functions = make_basis(basis, order, duration, len(times))
        return clip_path(eye, functions, kind, knots, ridge=ridge), lead
