"""How far generated clips lie from the true ones, and how much they differ: on feature vectors (B, D).

Measures that have one number a clip or caption return all of them, for `vlfm.evaluation.intervals.mean_interval`.
"""

from collections.abc import Sequence

import numpy as np
from scipy.spatial.distance import cdist, pdist

from vlfm.errors import VLFMError
from vlfm.words import plural

CHUNK = 1024  # rows of a matrix of distances at once


def frechet(real: np.ndarray, generated: np.ndarray, components: int | None = None) -> float:
    """The squared Fréchet distance between the Gaussians through two sets of features (Heusel et al., 2017).

    Computed from few samples it is too large, the more so the fewer; only sets of the same sizes compare, and the
    distance between two halves of the true clips says what perfection would score.

    Args:
        real, generated: (B, D) and (B', D).
        components: measure only along this many directions, those in which the two sets together vary most: for
            when there are fewer clips than D. Numbers compare only at the same count.

    Raises:
        VLFMError: if a set has no more samples than there are dimensions measured. Its covariance would be singular,
            and the distance would tell how many samples there are. (No shrinkage: the result would depend on its
            weight more than on the clips.) Or if features differ in length or are not finite.
    """
    real, generated = _checked(real, generated)
    if components is not None:
        real, generated = _reduced(real, generated, components)
    dims, samples = real.shape[1], min(len(real), len(generated))
    if samples <= dims:
        raise VLFMError(
            f"a Fréchet distance in {plural(dims, 'dimension')} needs more clips than that on each side, and there "
            f"are {samples}; give more clips, or components={max(1, samples // 4)}"
        )
    return frechet_distance(real, generated)


def frechet_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """`frechet` for any number of clips from 2 on, meaningful or not.

    `||m − m'||² + tr(C + C' − 2 (C C')^½)`. With X = QR the features less their mean, over √(B − 1), C is RᵀR, and
    the trace of the root is the sum of the singular values of R R'ᵀ: nothing is squared whose root is taken later, so
    that equal sets are at 0 to 14 digits.

    Raises:
        VLFMError: with fewer than 2 clips on a side.
    """
    ours, theirs = _checked(ours, theirs)
    if min(len(ours), len(theirs)) < 2:
        raise VLFMError("a Fréchet distance needs at least 2 clips on each side, and hundreds to mean something")
    roots = [
        np.linalg.qr((features - features.mean(0)) / np.sqrt(len(features) - 1), mode="r")
        for features in (ours, theirs)
    ]
    crossed = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    spread = sum(np.square(root).sum() for root in roots)
    return float(max(0.0, np.square(ours.mean(0) - theirs.mean(0)).sum() + spread - 2 * crossed))


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Which generated clips look real, and which real ones are covered (Kynkäänniemi et al., 2019).

    A set's manifold is the union of balls around its members, each reaching to its k-th nearest other member.

    Returns:
        (B',) float64, 1 where a generated clip lies in the manifold of the real ones, its mean the precision; and
        (B,) float64, 1 where a real clip lies in the manifold of the generated ones, its mean the recall.

    Raises:
        VLFMError: if a set has no more than k clips.
    """
    real, generated = _checked(real, generated)
    if min(len(real), len(generated)) <= k:
        raise VLFMError(
            f"precision and recall with k = {k} need more than {plural(k, 'clip')} in each set, and there are "
            f"{len(real)} real and {len(generated)} generated ones"
        )
    return _inside(generated, real, k), _inside(real, generated, k)


def diversity(features: np.ndarray, groups: Sequence) -> np.ndarray:
    """Mean distance between two clips of one group, for every group in the order met: (G,) float64.

    Groups are captions and their clips seeds, or true clips that share a caption. Only the true clips tell what it
    should be: divide by theirs. NaN for a group of one clip.

    Raises:
        VLFMError: if there is not one group a clip.
    """
    features = np.asarray(features, dtype=np.float64)
    if len(groups) != len(features):
        raise VLFMError(f"diversity: {len(features)} feature vectors but {len(groups)} groups")
    members: dict = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return np.array([pdist(features[rows]).mean() if len(rows) > 1 else np.nan for rows in members.values()])


def _inside(points: np.ndarray, members: np.ndarray, k: int) -> np.ndarray:
    """1 for points in at least one member's ball, which reaches to its k-th nearest other member."""
    # The nearest member is the member itself.
    radii = np.concatenate([np.partition(cdist(part, members), k, axis=1)[:, k] for part in _chunks(members)])
    return np.concatenate([(cdist(part, members) <= radii).any(1) for part in _chunks(points)]).astype(np.float64)


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def _reduced(real: np.ndarray, generated: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Both sets along the principal directions of their union, in which each set counts the same."""
    middle = (real.mean(0) + generated.mean(0)) / 2
    scatter = sum((features - middle).T @ (features - middle) / len(features) for features in (real, generated))
    directions = np.linalg.eigh(scatter)[1][:, ::-1][:, :components]
    return (real - middle) @ directions, (generated - middle) @ directions


def _checked(real: np.ndarray, generated: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 (B, D).

    Raises:
        VLFMError: if they are something else.
    """
    real, generated = (np.asarray(features, dtype=np.float64) for features in (real, generated))
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        raise VLFMError(
            f"features must be (B, D) with the same D in both sets; they are {real.shape} and {generated.shape}: "
            "extract both with the same network"
        )
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise VLFMError("features are not all finite; look at the clips they were extracted from")
    return real, generated
