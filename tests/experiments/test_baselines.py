"""The baselines on a small run of two splits: what is trained, for how long, and what is said of it."""

import shutil

import pytest

from tests.experiments.conftest import CPU, FRAMES, SHARDS, SPLITS, small
from tests.experiments.test_experiments import check_files, read
from vlfm.errors import VLFMError
from vlfm.experiments import baselines
from vlfm.finished_run import Run
from vlfm.model.transformer import VLFMTransformer
from vlfm.storage.files import read_json, write_json

pytestmark = pytest.mark.slow

SEEDS = (0, 1)


def settings(**experiments):
    return small(
        training={"caption_dropout": 0.2, "checkpoint_every": 2},
        evaluation={"guidance": 2.0, "solver": "euler", "solver_steps": 2},
        experiments={
            "baseline_seconds": 0.5,
            "baseline_seeds": list(SEEDS),
            "baseline_steps": [1, 2, 4],
            "videos": 1,
            **experiments,
        },
    )


def a_run(folder, config=None):
    return Run(config or settings(), folder, SHARDS, CPU, SPLITS)


@pytest.fixture(scope="module")
def trained(judged, tmp_path_factory):
    output = tmp_path_factory.mktemp("baselines")
    run = a_run(judged)
    baselines.run_part(run, output, "prepare")
    for name in baselines.VARIANTS:
        for seed in SEEDS:
            baselines.run_part(run, output, f"{name}-{seed}")
    return output


def test_seconds_become_steps_that_are_those_of_the_training(trained):
    prepared = read_json(trained / "baselines" / "steps.json")
    assert prepared["seconds"] == 0.5 and prepared["device"] == "cpu" and prepared["threads"] >= 1
    for name, its in prepared["variants"].items():
        assert its["steps"] == max(1, int(0.5 / its["seconds_a_step"]))
        for seed in SEEDS:
            folder = trained / "baselines" / f"{name}-{seed}"
            assert read_json(folder / "model" / "training.json")["steps"] == its["steps"]
            rows = read_json(folder / "result.json")["rows"]
            assert all(row["steps"] == its["steps"] and row["seed"] == seed and row["seconds"] > 0 for row in rows)
            assert not (folder / "checkpoints").exists()


def test_the_learning_rate_decays_over_exactly_the_steps_there_are():
    config = baselines.configured(settings(), "velocity", 3, 41)
    assert (config.seed, config.training.steps, config.training.warmup) == (3, 41, 2)
    assert (config.model.head, config.training.pure_noise, config.training.lead_in) == ("velocity", 0, 0)
    ours = baselines.configured(settings(), "coefficients", 3, 41).training
    assert (ours.pure_noise, ours.lead_in, ours.caption_dropout) == (0.75, 0.25, 0.2)


def test_all_variants_have_the_same_blocks(trained):
    sizes = {}
    for name in baselines.VARIANTS:
        network = VLFMTransformer.from_pretrained(trained / "baselines" / f"{name}-0" / "model" / "transformer")
        sizes[name] = sum(parameter.numel() for parameter in network.backbone.transformer_blocks.parameters())
        assert network.config.channels == (8 * FRAMES if name == "all-frames" else 8)
    assert len(set(sizes.values())) == 1


def test_every_way_of_sampling_is_a_row_with_its_true_evaluations(judged, trained):
    baselines.run(a_run(judged), trained)
    check_files(trained, "baselines", 1)
    rows = read(trained, "baselines")
    at = {(row["variant"], row["sampling"], row["split"]): row for row in rows}
    for split in ("train", "test"):
        counts = {key: row["evaluations"] for key, row in at.items() if key[2] == split}
        for steps in (1, 2, 4):
            assert (
                counts["coefficients", str(steps), split] == counts["all-frames", str(steps), split] == str(2 * steps)
            )
        assert counts["direct", "", split] == str(2 * FRAMES)
        assert counts["velocity", "1", split] == str(2 * FRAMES)
        assert counts["velocity", "2", split] == str(2 * 2 * FRAMES)
        assert ("velocity", "4", split) not in counts
        for name in ("true clips", "nearest caption", "average clip"):
            assert counts[name, "", split] == ""
    assert all(row["caption_accuracy"] and row["sharpness"] for row in rows)
    assert float(at["true clips", "", "test"]["sharpness"]) == pytest.approx(1)
    seeds = read(trained, "baselines", "seeds")
    assert list(seeds[0])[:8] == ["variant", "seed", "split", "sampling", "evaluations", "steps", "seconds", "digit"]
    mine = [float(row["sharpness"]) for row in seeds if (row["variant"], row["split"]) == ("direct", "test")]
    row = at["direct", "", "test"]
    assert len(mine) == 2 and row["seeds"] == "2" and float(row["sharpness"]) == pytest.approx(sum(mine) / 2, abs=1e-3)
    assert [float(row[f"sharpness_{end}"]) for end in ("low", "high")] == pytest.approx(sorted(mine), abs=1e-3)


def test_the_same_held_out_captions_lie_side_by_side(judged, trained):
    baselines.run(a_run(judged), trained)
    (group,) = read_json(trained / "baselines" / "index.json")["groups"]
    labels = [video["label"] for video in group["videos"]]
    assert labels == ["true", "coefficients, 4 steps", "velocity, 2 steps", "direct", "all frames, 4 steps"]
    assert group["title"].startswith("a picture")
    assert "held out captions" in read_json(trained / "baselines" / "index.json")["caption"]


def test_a_killed_job_goes_on_and_ends_alike(judged, trained, tmp_path, monkeypatch):
    def killed(*given):
        raise KeyboardInterrupt

    outputs = tmp_path / "whole", tmp_path / "killed"
    for output in outputs:
        shutil.copytree(trained / "baselines" / "frames", output / "baselines" / "frames")
        write_json(output / "baselines" / "steps.json", {"variants": {"all-frames": {"steps": 5}}})
    run = a_run(judged, settings(baseline_steps=[1]))
    baselines.run_part(run, outputs[0], "all-frames-1")
    with monkeypatch.context() as patch:
        patch.setattr(baselines, "Jury", killed)
        with pytest.raises(KeyboardInterrupt):
            baselines.run_part(run, outputs[1], "all-frames-1")
    baselines.run_part(run, outputs[1], "all-frames-1")
    whole, mine = (read_json(output / "baselines" / "all-frames-1" / "result.json") for output in outputs)
    assert all(row["seconds"] is None for row in mine["rows"]), "no job saw all of them"
    for row in mine["rows"] + whole["rows"]:
        row.pop("seconds")
    assert mine == whole


@pytest.mark.parametrize("part", ["noise-0", "velocity", "velocity-x", "all-frames"])
def test_an_unknown_part_is_told(judged, tmp_path, part):
    with pytest.raises(VLFMError, match=r"--part .*coefficients, velocity, direct, all-frames"):
        baselines.run_part(a_run(judged), tmp_path, part)


def test_what_was_not_prepared_is_told(judged, tmp_path):
    with pytest.raises(VLFMError, match=r"steps\.json is missing"):
        baselines.run_part(a_run(judged), tmp_path, "direct-0")
    with pytest.raises(VLFMError, match=r"steps\.json is missing"):
        baselines.run(a_run(judged), tmp_path)
