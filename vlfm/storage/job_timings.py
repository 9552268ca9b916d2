"""What Snakemake's benchmarks and the logs say of jobs that have ended."""

import contextlib
import csv
import re
from pathlib import Path

from vlfm.errors import VLFMError

RESUMED = re.compile(r"^going on from step (\d+)$", re.MULTILINE)


def read_benchmark(path: Path) -> list[dict[str, str]]:
    """The rows of a benchmark, one a repeat: `s` is seconds, of the job's last start alone.

    Raises:
        VLFMError: if it is no benchmark, or is not whole.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        if not rows:
            raise ValueError("it is empty")
        for row in rows:
            float(row["s"])
    except (KeyError, ValueError, TypeError) as error:
        raise VLFMError(f"{path} is not a benchmark of Snakemake's ({error}); remove it") from None
    return rows


def benchmark_seconds(path: Path) -> float | None:
    """Seconds of a job; None where there is no benchmark, or it is not whole yet."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, VLFMError):
        return sum(float(row["s"]) for row in read_benchmark(path))
    return None


def resumed_step(results: Path) -> int | None:
    """The step that the training in a results folder last went on from, by its log; None where it was never stopped.

    Its benchmark has the seconds since then.
    """
    with contextlib.suppress(OSError):
        found = RESUMED.search((results / "logs" / "train.log").read_text(errors="replace"))
        return int(found[1]) if found else None
    return None
