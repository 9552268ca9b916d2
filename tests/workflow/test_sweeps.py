"""The DAG's experiments that take an hour, made to take seconds, on moving digits; no other target asks for them."""

import csv
import re
from pathlib import Path

import pytest

from tests.workflow.test_dag import snakemake
from tests.workflow.test_digits import DIGITS
from vlfm.storage.files import read_json

OPTIONS = ("--configfile", DIGITS, Path(__file__).with_name("sweeps.yaml"))
VARIANTS = ("coefficients", "velocity", "direct", "all-frames")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps")
    snakemake(folder, *OPTIONS, "--", "baselines", "depth")
    return folder


def jobs(plan):
    """Rule → how many jobs a dry run plans."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", plan.stdout, re.MULTILINE)}


def test_they_are_asked_for_by_name_alone(tmp_path):
    everything = jobs(snakemake(tmp_path, *OPTIONS, "--dry-run"))
    assert "train_head" in everything and not {"train_baseline", "prepare_depths", "try_depth"} & everything.keys()
    asked = jobs(snakemake(tmp_path, *OPTIONS, "--dry-run", "--", "baselines", "depth"))
    assert (asked["train_baseline"], asked["try_depth"]) == (4, 2)
    # The sweeps train networks of their own.
    assert "train_model" not in asked and "train_head" not in asked


def test_tables_figures_and_videos_are_there(folder):
    output = folder / "results" / "eval"
    for name in ("baselines", "depth"):
        assert (output / f"{name}.svg").exists() and read_json(output / name / "index.json")["groups"]
    with (output / "baselines.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {*VARIANTS, "true clips", "nearest caption", "average clip"}
    assert {row["split"] for row in rows} == {"train", "test"}
    true = next(row for row in rows if (row["variant"], row["split"]) == ("true clips", "test"))
    assert float(true["direction"]) == 1, "the judge reads digits"
    with (output / "depth.csv").open() as file:
        assert [row["depth"] for row in csv.DictReader(file)] == ["0", "0", "1", "1"]


def test_nothing_is_left_to_do_and_settings_rerun_their_own(folder):
    targets = "--", "baselines", "depth"
    assert "Nothing to be done" in snakemake(folder, *OPTIONS, "--dry-run", *targets).stdout
    steps = jobs(snakemake(folder, *OPTIONS, "--dry-run", "--config", "experiments={depth_steps: 3}", *targets))
    assert steps.keys() - {"total", "depth"} == {"try_depth", "compare_depths"}
    seeds = jobs(snakemake(folder, *OPTIONS, "--dry-run", "--config", "experiments={baseline_seeds: [0, 1]}", *targets))
    assert seeds["train_baseline"] == 4 and "prepare_baselines" not in seeds and "invert" not in seeds
