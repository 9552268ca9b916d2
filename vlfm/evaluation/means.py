"""Means over clips with their intervals, group by group."""

from collections.abc import Sequence

import numpy as np
import torch

from vlfm.evaluation.intervals import mean_interval
from vlfm.storage.tables import Row


def means(rows: Sequence[Row], by: Sequence[str], metrics: Sequence[str], seed: int = 0) -> list[Row]:
    """One row per combination of the columns `by`, in the order met: for each metric its mean over clips and
    `METRIC_low`, `METRIC_high`, the 95 % interval of `mean_interval`; NaN where no clip has a number.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    result = []
    for values, members in groups.items():
        summary: Row = dict(zip(by, values, strict=True)) | {"clips": len(members)}
        for metric in metrics:
            numbers = [row[metric] for row in members if row[metric] is not None]
            interval = mean_interval(numbers, seed) if numbers else (float("nan"),) * 3
            summary |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), interval, strict=True))
        result.append(summary)
    return result


def number(value: float | torch.Tensor) -> float | None:
    """A measured value as JSON keeps it: None where it is not a number."""
    value = float(value)
    return round(value, 6) if np.isfinite(value) else None
