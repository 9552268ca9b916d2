"""What happened to every clip, gathered from the ledgers that the stages left."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vlfm.artifacts import LedgerRow, read_ledger
from vlfm.errors import VLFMError

# Each stage's ledgers, in the order a clip meets them.
LEDGERS = {
    "index": "clips/index.ledger.parquet",
    "decode": "clips/[0-9]*.ledger.parquet",
    "invert": "latents/*.ledger.parquet",
    "project": "coefficients/*.ledger.parquet",
}


@dataclass(frozen=True)
class StageSummary:
    """One stage's sums: clips that went well and badly, seconds, bytes written."""

    stage: str
    ok: int
    bad: int
    seconds: float
    bytes: int


def read_rows(results: Path) -> list[LedgerRow]:
    """All rows of all ledgers of a run, in the order of the stages."""
    paths = [path for pattern in LEDGERS.values() for path in sorted(results.glob(pattern))]
    return [row for path in paths for row in read_ledger(path)]


def summarise(rows: list[LedgerRow]) -> list[StageSummary]:
    """Sums per stage, stages in the order they were met."""
    return [
        StageSummary(
            stage,
            sum(row.status == "ok" for row in rows if row.stage == stage),
            sum(row.status != "ok" for row in rows if row.stage == stage),
            sum(row.seconds for row in rows if row.stage == stage),
            sum(row.bytes for row in rows if row.stage == stage),
        )
        for stage in Counter(row.stage for row in rows)
    ]


def print_ledger(results: Path, bad: bool = False) -> None:
    """Print the sums per stage and, if asked, every bad clip with its reason.

    Raises:
        VLFMError: if the run has no ledger yet.
    """
    rows = read_rows(results)
    if not rows:
        raise VLFMError(f"no ledger in {results}; run `snakemake` first, or name the folder with --results")
    print(f"{'stage':<10}{'ok':>8}{'bad':>8}{'seconds':>10}{'MB':>10}")
    for line in summarise(rows):
        print(f"{line.stage:<10}{line.ok:>8}{line.bad:>8}{line.seconds:>10.1f}{line.bytes / 1e6:>10.1f}")
    if bad:
        for row in rows:
            if row.status != "ok":
                print(f"{row.stage} row {row.row} {row.clip_id} {row.source}: {row.reason}")
