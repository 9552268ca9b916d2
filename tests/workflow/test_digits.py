"""The DAG on moving digits: drawn, indexed, trained on one part and scored on both."""

import csv
from pathlib import Path

import pytest

from tests.workflow.test_dag import snakemake
from vlfm.storage.files import read_json
from vlfm.storage.manifest import read_manifest

DIGITS = Path(__file__).with_name("digits.yaml")

pytestmark = pytest.mark.slow


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
