"""A run's folder as `vlfm` and Snakemake leave it, without their work: real plans, ledgers and logs, empty outputs."""

import os
import shutil
from base64 import urlsafe_b64encode
from pathlib import Path

from vlfm.storage.files import write_json
from vlfm.storage.ledger import LedgerRow, write_ledger


def make_run(
    folder: Path, shards: int, clips: int, done: dict[str, int], seconds: float, start: float, lossy: int = 100
) -> Path:
    """Write a run of `shards` shards of `clips` clips; returns its results.

    Args:
        done: how many shards decode, invert and project have done.
        seconds: that each job took, one after the other from `start` (seconds since the epoch).
        lossy: every so manieth shard has lost a clip in decoding.
    """
    results = folder / "results"
    names = [f"{shard:05d}" for shard in range(shards)]
    write_json(results / "clips" / "shards.json", {name: {"clips": clips, "digest": "0" * 16} for name in names})
    (results / "clips" / "manifest.parquet").touch()
    outputs = {"decode": ["clips/{}.tar"], "invert": ["latents/{}.zarr/zarr.json"], "project": ["coefficients/{}.tar"]}
    outputs["project"].append("coefficients/{}.json")
    for stage, count in done.items():
        ledgers = [results / f"{stage}-{kind}.parquet" for kind in ("good", "bad")]
        for ledger, bad in zip(ledgers, (0, 1), strict=True):
            write_ledger(ledger, rows(stage, clips, bad))
        for place, name in enumerate(names[:count]):
            for output in outputs[stage]:
                touch(results / output.format(name))
            kind = ledgers[stage == "decode" and (place + 1) % lossy == 0]
            shutil.copyfile(kind, results / outputs[stage][0].split("/")[0] / f"{name}.ledger.parquet")
            touch(results / "logs" / stage / f"{name}.log", "", start + seconds * (place + 1))
            benchmark(results, f"{stage}/{name}", seconds, start + seconds * (place + 1))
        for ledger in ledgers:
            ledger.unlink()
    return results


def rows(stage: str, good: int, bad: int) -> list[LedgerRow]:
    """Of a ledger: `good` rows, and the first `bad` of them bad."""
    return [
        LedgerRow(
            f"{row:016x}", stage, "bad" if row < bad else "ok", "it ends early" if row < bad else "", "a.mp4", row
        )
        for row in range(good)
    ]


def touch(path: Path, text: str = "", when: float | None = None) -> Path:
    """Write a small file, changed at `when`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if when is not None:
        os.utime(path, (when, when))
    return path


def benchmark(results: Path, job: str, seconds: float, when: float) -> None:
    """As Snakemake writes it when a job has ended well."""
    touch(results / "benchmarks" / f"{job}.tsv", f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t100.0\n", when)


def begin(folder: Path, output: str, when: float) -> Path:
    """Mark an output as Snakemake does when its job begins."""
    name = urlsafe_b64encode(output.encode()).decode()
    parts = [name[start : start + 254] for start in range(0, len(name), 254)]
    place = folder.joinpath(".snakemake", "incomplete", *(f"@{part}" for part in parts[:-1]), parts[-1])
    return touch(place, '{"external_jobid": null}', when)
