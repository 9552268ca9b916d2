"""The DAG on moving digits: drawn, indexed, trained on one part and scored on both, and the sweeps on it."""

import csv
import re
from pathlib import Path

import pytest

from tests.workflow.test_dag import snakemake
from vlfm.storage.files import read_json
from vlfm.storage.manifest import read_manifest

DIGITS = Path(__file__).with_name("digits.yaml")
SWEEPS = ("--configfile", DIGITS, DIGITS.with_name("sweeps.yaml"))
VARIANTS = ("coefficients", "velocity", "direct", "all-frames")

pytestmark = pytest.mark.slow(minutes=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    snakemake(folder, "--configfile", DIGITS, "--", "results/eval/psnr.csv", "generation")
    return folder


def test_every_stage_but_training_has_the_held_out_clips(folder):
    results = folder / "results"
    plan = read_json(results / "clips" / "shards.json")
    assert {name: (about["clips"], about["split"]) for name, about in plan.items()} == {
        "00000": (256, "train"),
        "00001": (64, "test"),
    }
    for name in plan:
        for path in (f"clips/{name}.tar", f"latents/{name}.zarr", f"coefficients/{name}.tar"):
            assert (results / path).exists()
    assert read_json(results / "model" / "training.json")["clips"] == 256
    about = read_json(results / "decoder" / "decoder.json")
    assert about["training_frames"] + about["held_out_frames"] == 256 * 4
    splits = {clip.clip_id: clip.split for clip in read_manifest(results / "clips" / "manifest.parquet")}
    with (results / "eval" / "psnr.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["split"] == splits[row["clip_id"]] for row in rows)
    scored = {row["clip_id"]: row["split"] for row in rows}
    assert sorted(scored.values()) == ["test", "test", "train", "train"]


def test_videos_of_held_out_captions_are_judged(folder):
    results = folder / "results"
    assert read_json(results / "judges" / "judges.json")["clips"] == 256
    with (results / "eval" / "generation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["split"] for row in rows] == ["test"] * 6 + ["train"] * 6
    assert all((row["captions"], row["direction"]) == ("4", "1") for row in rows if row["method"] == "true clips")
    groups = read_json(results / "eval" / "generation" / "index.json")["groups"]
    assert len(groups) == 8 and all(len(group["videos"]) == 3 for group in groups)


def test_everything_includes_them_where_there_are_held_out_clips(folder):
    options = ["--configfile", DIGITS, "--dry-run"]
    assert "write_report" in snakemake(folder, *options).stdout
    assert "generate_held_out" in snakemake(folder, *options, "--config", "generation={seeds: 3}").stdout
    assert "fit_judges" not in snakemake(folder, *options, "--config", "generation={seeds: 3}").stdout


def test_nothing_is_left_to_do(folder):
    again = snakemake(folder, "--configfile", DIGITS, "--dry-run", "--", "results/eval/psnr.csv", "generation")
    assert "Nothing to be done" in again.stdout


def test_unrelated_settings_draw_nothing_again(folder):
    options = ["--configfile", DIGITS, "--dry-run", "results/eval/psnr.csv", "--config"]
    plan = snakemake(folder, *options, "training={steps: 9}").stdout
    assert "train_model" in plan and "make_digits" not in plan and "decode " not in plan
    assert "make_digits" in snakemake(folder, *options, "clips={digits: {clips: 2}}").stdout


# ------------------------------------------------------ the experiments that take an hour, made to take seconds


@pytest.fixture(scope="module")
def swept(folder):
    """Everything up to the judges is there already."""
    snakemake(folder, *SWEEPS, "--", "baselines", "depth")
    return folder


def jobs(plan):
    """Rule → how many jobs a dry run plans."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", plan.stdout, re.MULTILINE)}


def test_sweeps_are_asked_for_by_name_alone(tmp_path):
    everything = jobs(snakemake(tmp_path, *SWEEPS, "--dry-run"))
    assert "train_head" in everything and not {"train_baseline", "prepare_depths", "try_depth"} & everything.keys()
    asked = jobs(snakemake(tmp_path, *SWEEPS, "--dry-run", "--", "baselines", "depth"))
    assert (asked["train_baseline"], asked["try_depth"]) == (4, 2)
    # The sweeps train networks of their own.
    assert "train_model" not in asked and "train_head" not in asked


def test_sweeps_tables_figures_and_videos_are_there(swept):
    output = swept / "results" / "eval"
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


def test_nothing_is_left_of_them_and_settings_rerun_their_own(swept):
    targets = "--", "baselines", "depth"
    assert "Nothing to be done" in snakemake(swept, *SWEEPS, "--dry-run", *targets).stdout
    steps = jobs(snakemake(swept, *SWEEPS, "--dry-run", "--config", "experiments={depth_steps: 3}", *targets))
    assert steps.keys() - {"total", "depth"} == {"try_depth", "compare_depths"}
    seeds = jobs(snakemake(swept, *SWEEPS, "--dry-run", "--config", "experiments={baseline_seeds: [0, 1]}", *targets))
    assert seeds["train_baseline"] == 4 and "prepare_baselines" not in seeds and "invert" not in seeds
