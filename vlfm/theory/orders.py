"""Lemmas F.1, 5.2 and 5.4: what the order and the basis cost and buy, from latents alone."""

import numpy as np

from vlfm.errors import VLFMError
from vlfm.flow import theory
from vlfm.flow.bases import BASES, Basis, make_basis
from vlfm.flow.projection import METHODS
from vlfm.theory.groups import KINDS, ClipGroup, count_clips, pooled, rms

FACTORS = (2, 3)  # of speed, or of frames left out
COSINE = "lstsq, cosine"
# What tables call a way to project → basis, method: least squares on each basis, and the recurrences, Legendre's.
WAYS = {
    "lstsq": ("legendre", "lstsq"),
    COSINE: ("cosine", "lstsq"),
    **{method: ("legendre", method) for method in reversed(METHODS) if method != "lstsq"},
}


def _basis(name: str, group: ClipGroup, order: int, duration: float) -> Basis:
    return make_basis(name, order, duration, len(group.times))


def measure_projection(groups: list[ClipGroup], duration: float) -> list[dict]:
    """Lemma F.1: error at the frames for every kind of latents, way to project (`WAYS`) and order 1 … N.

    `error`: RMS over everything, in latent units; `relative`: to the RMS of the latents. What a method refuses,
    or what is not finite, is NaN with the reason in `note`.
    """
    rows = []
    for kind in KINDS:
        size = rms(groups, kind)
        for way, (basis, method) in WAYS.items():
            for order in range(1, len(groups[0].times) + 1):
                error, note = pooled(
                    groups,
                    lambda group, kind=kind, order=order, basis=basis, method=method: theory.frame_error(
                        group.of(kind), _basis(basis, group, order, duration), method, times=group.times
                    ),
                )
                rows.append(
                    {
                        "latents": kind,
                        "method": way,
                        "order": order,
                        "error": error,
                        "relative": error / size,
                        "clips": count_clips(groups),
                        "note": note,
                    }
                )
    return rows


def measure_held_out(groups: list[ClipGroup], duration: float, every: int = 2) -> list[dict]:
    """Lemma 5.2: every `every`-th frame is given, the error is at the others, least squares of order 1 … N.

    basis: of the path. path: `projected`, `hybrid`, or `linear`, the straight line between the given frames (which has
    neither order nor basis). `error`, `relative` as in `measure_projection`; `at_frames`: the projected path's relative
    error at the given frames.
    """
    rows = []
    for kind in KINDS:
        size = rms(groups, kind)

        def row(basis: str, path: str, order: int, kind: str = kind, size: float = size) -> dict:
            drawn = "projected" if path == "projected" else "hybrid"
            error, note = pooled(
                groups,
                lambda group: theory.held_out_error(
                    group.of(kind), _basis(basis, group, order, duration), every, times=group.times, kind=drawn
                ),
            )
            given, _ = pooled(
                groups,
                lambda group: theory.frame_error(
                    group.of(kind)[:, theory.every_nth(len(group.times), every)],
                    _basis(basis, group, order, duration),
                    times=group.times[theory.every_nth(len(group.times), every)],
                ),
            )
            return {
                "latents": kind,
                "basis": basis,
                "path": path,
                "order": order,
                "error": error,
                "relative": error / size,
                "at_frames": given / size if path == "projected" else 0.0,
                "clips": count_clips(groups),
                "note": note,
            }

        orders = range(1, len(groups[0].times) + 1)
        rows += [row(basis, path, order) for basis in BASES for path in ("projected", "hybrid") for order in orders]
        # One constant and the straight line through what it leaves: a straight line.
        rows.append(row("legendre", "linear", 1) | {"basis": ""})
    return rows


def best_order(rows: list[dict], kind: str, basis: str, path: str = "projected") -> int:
    """The order with the smallest error between the given frames."""
    asked = (kind, basis, path)
    chosen = [row for row in rows if (row["latents"], row["basis"], row["path"]) == asked and np.isfinite(row["error"])]
    if not chosen:
        raise VLFMError("no order could be measured between the frames; give clips of at least four frames")
    return min(chosen, key=lambda row: row["error"])["order"]


def measure_timescale(groups: list[ClipGroup], duration: float) -> list[dict]:
    """Lemma 5.4: relative change of H, `||H' − H|| / ||H||`, RMS over clips.

    experiment: `faster`, the same frames played `factor` times faster; `sampled`, the same motion from every
    `factor`-th frame.
    """
    rows = []
    for experiment, kind, measure in (
        ("faster", "inverted", theory.dilation_error),
        ("sampled", "inverted", theory.timescale_error),
        ("sampled", "autoencoder", theory.timescale_error),
    ):
        for way in ("lstsq", COSINE, "zoh", "bilinear"):
            basis, method = WAYS[way]
            for factor in FACTORS:
                for order in range(1, len(groups[0].times) + 1):
                    change, note = pooled(
                        groups,
                        lambda group, measure=measure, kind=kind, factor=factor, method=method, about=(basis, order): (
                            measure(
                                group.of(kind),
                                _basis(about[0], group, about[1], duration),
                                factor,
                                method,
                                times=group.times,
                            )
                        ),
                    )
                    rows.append(
                        {
                            "experiment": experiment,
                            "latents": kind,
                            "method": way,
                            "factor": factor,
                            "order": order,
                            "change": change,
                            "clips": count_clips(groups),
                            "note": note,
                        }
                    )
    return rows
