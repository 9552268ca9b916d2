"""What happened to every clip, gathered from the ledgers that the stages left."""

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.splits import SPLITS, splits_met
from vlfm.storage import manifest
from vlfm.storage.ledger import LedgerRow, read_ledger

# Each stage's ledgers, in the order a clip meets them.
LEDGERS = {
    "index": "clips/index.ledger.parquet",
    "decode": "clips/[0-9]*.ledger.parquet",
    "caption": "clips/captions/*.ledger.parquet",
    "invert": "latents/*.ledger.parquet",
    "project": "coefficients/*.ledger.parquet",
}


@dataclass(frozen=True)
class StageSummary:
    """One stage's sums: clips that went well and badly, seconds, bytes written; how many good ones are of a split."""

    stage: str
    ok: int
    bad: int
    seconds: float
    bytes: int
    splits: Mapping[str, int] = field(default_factory=dict)


def read_splits(results: Path) -> dict[str, str]:
    """Clip id → split, by the manifest; nothing where there is none, or where all clips are of one split."""
    path = results / "clips" / "manifest.parquet"
    splits = manifest.read_splits(path) if path.exists() else {}
    return splits if len(splits_met(splits.values())) > 1 else {}


def read_rows(results: Path) -> list[LedgerRow]:
    """All rows of all ledgers of a run, in the order of the stages. Where `latents_from` took clips and latents from
    another run, that run's ledgers tell of them."""
    made_in = results
    with contextlib.suppress(VLFMError):  # no configuration is there, or an older version's
        made_in = configs.load(results / "config.yaml").made_in(results)
    folders = {stage: results if stage == "project" else made_in for stage in LEDGERS}
    paths = [path for stage, pattern in LEDGERS.items() for path in sorted(folders[stage].glob(pattern))]
    return [row for path in paths for row in read_ledger(path)]


def summarise(rows: list[LedgerRow], splits: Mapping[str, str] | None = None) -> list[StageSummary]:
    """Sums per stage, stages in the order they were met.

    Args:
        splits: clip id → split, from `read_splits`; without it, or where it is empty, none are counted.
    """
    counts = Counter((row.stage, (splits or {}).get(row.clip_id)) for row in rows if row.status == "ok")
    return [
        StageSummary(
            stage,
            sum(row.status == "ok" for row in rows if row.stage == stage),
            sum(row.status != "ok" for row in rows if row.stage == stage),
            sum(row.seconds for row in rows if row.stage == stage),
            sum(row.bytes for row in rows if row.stage == stage),
            {split: counts[stage, split] for split in SPLITS} if splits else {},
        )
        for stage in Counter(row.stage for row in rows)
    ]


def print_ledger(results: Path, bad: bool = False) -> None:
    """Print the sums per stage, where there are test clips with how many are which, and, if asked, every bad clip with
    its reason.

    Raises:
        VLFMError: if the run has no ledger yet.
    """
    rows = read_rows(results)
    if not rows:
        raise VLFMError(f"no ledger in {results}; run `snakemake` first, or name the folder with --results")
    splits = read_splits(results)
    heads = "".join(f"{split:>8}" for split in SPLITS) if splits else ""
    print(f"{'stage':<10}{'ok':>8}{heads}{'bad':>8}{'seconds':>10}{'MB':>10}")
    for line in summarise(rows, splits):
        parts = "".join(f"{count:>8}" for count in line.splits.values())
        print(f"{line.stage:<10}{line.ok:>8}{parts}{line.bad:>8}{line.seconds:>10.1f}{line.bytes / 1e6:>10.1f}")
    if bad:
        for row in rows:
            if row.status != "ok":
                where = f" row {row.row}" if row.row else ""
                print(f"{row.stage}{where} {row.clip_id} {row.source}: {row.reason}")
