"""How many of its steps a training has taken, from what it writes on the way."""

import contextlib
import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError
from vlfm.operations.status.files import changed, names
from vlfm.storage.files import read_json
from vlfm.storage.job_timings import benchmark_seconds, resumed_step
from vlfm.training.log import MetricsLog

CHECKPOINT = re.compile(r"step-(\d{8})\.safetensors")
EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\.")


@dataclass(frozen=True)
class Steps:
    """Steps taken, or saved where nobody trains now; steps a second, None where unknown; whether it is finished."""

    taken: int
    rate: float | None
    finished: bool


def read_steps(results: Path, begun: float | None, at_work: bool) -> Steps:
    """How far the training in a results folder is.

    While a training works it tells its step in `metrics.csv`, every ten steps. Where none does, the newest checkpoint
    counts: from there it will go on.

    Args:
        begun: when the job began that has not ended, seconds since the epoch; None where there is none.
        at_work: whether it is at work now.
    """
    if begun is None and (about := _finished(results / "model" / "training.json")):
        seconds = benchmark_seconds(results / "benchmarks" / "train.tsv")
        # A training that was stopped and went on has in its benchmark the seconds of its last part.
        rate = about["steps"] / seconds if seconds and not resumed_step(results) else None
        return Steps(about["steps"], rate, True)
    # The events' folder is named after the training, as its checkpoints' is. The one that began last is meant.
    events = _newest_events(results / "model" / "tensorboard")
    saved = _saved(results / "checkpoints" / events[0]) if events else 0
    if not at_work or events is None or events[1] < int(begun or 0):  # of an earlier one, while imports are waited for
        return Steps(saved, None, False)
    taken, last = _logged(results / "model" / "metrics.csv"), changed(results / "model" / "metrics.csv")
    first = resumed_step(results) or 0
    rate = (taken - first) / (last - events[1]) if last is not None and taken > first and last > events[1] else None
    return Steps(max(taken, saved), rate, False)


def _finished(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(VLFMError, KeyError, TypeError, ValueError):
        about = read_json(path)
        return {"steps": int(about["steps"])}
    return None


def _newest_events(folder: Path) -> tuple[str, int] | None:
    """Of the training that began last: its name, and when it began, or went on, in whole seconds."""
    found = [
        (int(match[1]), name)
        for name in names(folder)
        for file in names(folder / name)
        if (match := EVENTS.match(file))
    ]
    return (max(found)[1], max(found)[0]) if found else None


def _saved(folder: Path) -> int:
    return max((int(match[1]) for name in names(folder) if (match := CHECKPOINT.fullmatch(name))), default=0)


def _logged(path: Path) -> int:
    """The last step in the table of metrics; a line that is half written does not count."""
    steps = [0]
    with contextlib.suppress(OSError), path.open(newline="") as file:
        whole = [line for line in file if line.endswith("\n")]
        steps += [int(row[0]) for row in csv.reader(whole) if len(row) == len(MetricsLog.COLUMNS) and row[0].isdigit()]
    return steps[-1]
