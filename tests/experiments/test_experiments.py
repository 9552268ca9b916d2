"""Every experiment on a small run: what it writes, and that it says what is true of it."""

import csv
import math
import shutil
from itertools import product
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from tests.experiments.conftest import CPU, DURATION, FRAMES, small
from vlfm.errors import VLFMError
from vlfm.evaluation.evaluate import evaluate
from vlfm.experiments import ablation, extrapolation, interpolation, ledger, order, speed
from vlfm.experiments.names import HEADS
from vlfm.experiments.shared.scene import scene
from vlfm.finished_run import Run
from vlfm.frames import to_tensor
from vlfm.storage.files import read_json
from vlfm.storage.manifest import read_manifest


def read(output, name, part=None):
    path = output / f"{name}.csv" if part is None else output / name / f"{part}.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def check_files(output, name, groups):
    index = read_json(output / name / "index.json")
    assert len(index["groups"]) == groups and index["title"] and index["caption"]
    for group in index["groups"]:
        assert len(group["videos"]) > 1
        for video in group["videos"]:
            assert (output / name / video["file"]).stat().st_size > 300 and video["fps"] > 0
    ElementTree.fromstring((output / f"{name}.svg").read_text())
    assert not list(output.rglob(".*"))


# ------------------------------------------------------------------------------------ interpolation


@pytest.fixture(scope="module")
def interpolated(results, tmp_path_factory):
    output = tmp_path_factory.mktemp("interpolated")
    interpolation.run(Run(small(), results, ["00000"], CPU), output)
    return output


@pytest.mark.slow
def test_interpolation_ranks_every_method_on_clips_and_scene(interpolated):
    tmp_path = interpolated
    check_files(tmp_path, "interpolation", 2)
    rows = read(tmp_path, "interpolation")
    assert {row["source"] for row in rows} == {"clips", "scene"}
    for source in ("clips", "scene"):
        mine = [row for row in rows if row["source"] == source]
        psnr = {(row["space"], row["method"]): float(row["psnr"]) for row in mine}
        assert list(psnr.values()) == sorted(psnr.values(), reverse=True)
        pixels, latents = {"repeat", "blend", "minterpolate", "motion"}, {"latent linear", "latent cubic"}
        paths = {"cosine", "legendre", "cosine hybrid", "legendre hybrid"}
        others = {"motion", "motion, encoded", "motion, encoded + residual", "truth"}
        assert {method for space, method in psnr if space == "pixels"} == pixels
        assert {method for space, method in psnr if space == "pixels, decoded"} == pixels
        for space in ("autoencoder", "inverted"):
            assert {method for kind, method in psnr if kind == space} == latents | paths | others
        # A decoder costs.
        for method in pixels:
            assert psnr["pixels, decoded", method] < psnr["pixels", method] + 0.5
    assert len(read(tmp_path, "interpolation", "clips")) == 3 * len(rows) / 2  # two clips, one scene
    assert all(row["psnr_low"] for row in rows if row["source"] == "clips")
    caption = read_json(tmp_path / "interpolation" / "index.json")["caption"]
    assert "decoder's share" in caption and "from minterpolate" in caption


@pytest.mark.slow
def test_interpolation_is_the_same_twice(run, interpolated, tmp_path):
    interpolation.run(run, tmp_path)
    for name in ("interpolation.csv", "interpolation.svg", "interpolation/index.json", "interpolation/clips.csv"):
        assert (tmp_path / name).read_bytes() == (interpolated / name).read_bytes()


def test_held_out_frames_are_not_seen(run):
    """Other held-out frames change the truth's row alone, and the scores."""
    times = np.arange(1, 10) / 48
    frames = to_tensor(scene(0).frames(times, 36))
    other = frames.clone()
    other[1::2] = -frames[1::2]
    made = [interpolation.Held(run.coder(), part, times, None, 0, 4).videos() for part in (frames, other)]
    for key, video in made[0].items():
        assert torch.equal(video, made[1][key]) == (key[1] != "truth"), key


def test_a_perfect_decoders_share_is_nothing_and_linear_motion_is_found(run):
    """Brightness that grows steadily: every latent path is exact, and no round trip loses with a lossless decoder."""

    class Identity:
        def encode(self, frames):
            return frames

        decode = invert = generate = encode

    times = np.array([0.02, 0.05, 0.08, 0.12, 0.15, 0.18, 0.22])
    frames = torch.as_tensor(times, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 36, 36) * 4 - 0.5
    held = interpolation.Held(Identity(), frames, times, None, 0, 3)
    videos = held.videos()
    for space in ("autoencoder", "inverted"):
        for method in (
            "latent linear",
            "latent cubic",
            "legendre",
            "legendre hybrid",
            "motion",
            "motion, encoded",
            "truth",
        ):
            assert held.scores(videos[space, method])["psnr"] > 70, (space, method)
    assert held.scores(videos["pixels", "blend"])["psnr"] > 70
    assert held.scores(videos["pixels", "repeat"])["psnr"] < 40


def test_two_frames_leave_nothing_to_interpolate(run):
    with pytest.raises(VLFMError, match="3 frames or more"):
        interpolation.Held(run.coder(), torch.zeros(2, 3, 36, 36), np.array([0.1, 0.2]), None, 0, 2)


# ------------------------------------------------------------------------------------ extrapolation


def test_windows_that_follow_one_another_are_joined(run):
    clips = read_manifest(run.results / "clips" / "manifest.parquet")
    chains = extrapolation.chained(run)
    assert [[clip.clip_id for clip in chain] for chain in chains] == [
        [clip.clip_id for clip in clips[:3]],
        [clip.clip_id for clip in clips[1:3]],
    ]
    assert extrapolation.choose(chains, 1) == chains[:1]


def test_extrapolation_scores_every_tail_and_reports_what_is_refused(run, tmp_path):
    extrapolation.run(run, tmp_path)
    check_files(tmp_path, "extrapolation", 2)
    rows = read(tmp_path, "extrapolation")
    spaces = {"autoencoder", "inverted", "network"}
    assert {(row["space"], row["method"]) for row in rows if row["source"] == "clips"} == {
        *((space, tail) for space in spaces for tail in ("continued, cosine", "hold", "linear", "refit")),
        *((space, "continued, legendre") for space in ("autoencoder", "inverted")),
        ("pixels", "repeat"),
        ("autoencoder", "truth"),
    }
    assert "network" not in {row["space"] for row in rows if row["source"] == "scene"}
    far = [row for row in rows if row["method"] == "continued, legendre" and float(row["from"]) > DURATION]
    assert far and all(row["refused"] == "1" and row["psnr"] == "" for row in far)
    bounded = ("hold", "continued, cosine")
    assert all(row["refused"] == "0" and row["psnr"] for row in rows if row["method"] in bounded)
    stretches = sorted({float(row["from"]) for row in rows if row["source"] == "scene"})
    assert stretches == pytest.approx([DURATION / 2 * k for k in range(6)], abs=1e-3)


def test_beyond_a_still_picture_holding_is_exact(run):
    times = np.arange(1, 4 * FRAMES + 1) / 24
    frames = to_tensor(scene(0).frames(np.zeros(1), 36)).expand(len(times), -1, -1, -1)
    longer = extrapolation.Longer(run, frames, times, DURATION)
    videos = longer.videos()
    assert len(longer.truth) == 3 * FRAMES // 2
    truth = videos["autoencoder", "truth"][0]
    for tail in ("hold", "linear", "refit"):
        assert torch.allclose(videos["autoencoder", tail][0], truth, atol=1e-2)
    assert torch.equal(videos["pixels", "repeat"][0], longer.truth)


def test_no_longer_truth_is_told(results, tmp_path):
    config = small(clips={"fps": 240, "duration": 0.05}, experiments={"scenes": 0}, evaluation={"fps": [240]})
    with pytest.raises(VLFMError, match="no clip of this run begins where another ends"):
        extrapolation.run(Run(config, results, ["00000"], CPU), tmp_path)


# -------------------------------------------------------------------------------------------- order


def test_orders_fit_better_at_the_frames(run, tmp_path):
    order.run(run, tmp_path)
    check_files(tmp_path, "order", 1)
    rows = read(tmp_path, "order")
    assert len(rows) == 2 * 2 * 2 * 3  # kinds of latents, bases, paths, orders
    for space, basis in product(("autoencoder", "inverted"), ("cosine", "legendre")):
        mine = [row for row in rows if (row["latents"], row["basis"]) == (space, basis)]
        at = {(row["path"], int(row["order"])): row for row in mine}
        fits = [float(at["projected", s]["at_frames"]) for s in (2, 4, 6)]
        assert fits == sorted(fits)
        exact = {at["hybrid", s]["at_frames"] for s in (2, 4, 6)}
        assert len(exact) == 1 and float(exact.pop()) >= fits[-1] - 1e-3
        assert [at["projected", s]["between"] != "" for s in (2, 4, 6)] == [True, True, False]  # four frames given
        gains = [float(at["hybrid", s]["amplification"]) for s in (2, 4, 6)]
        assert gains == sorted(gains)


def test_all_orders_by_default(results):
    run = Run(small(experiments={"orders": None}), results, ["00000"], CPU)
    assert order.orders(run, 5) == [2, 3, 4, 5]


# ------------------------------------------------------------------------------------------- ledger


@pytest.fixture(scope="module")
def scored(results, tmp_path_factory):
    output = tmp_path_factory.mktemp("eval")
    evaluate(small(), ["00000"], results, output / "psnr.csv", output / "videos", CPU)
    return output


def test_rates_above_the_clips_own_are_shown_and_not_scored(scored):
    rows = read(scored, "psnr")
    assert {row["fps"] for row in rows} == {"12", "24"}
    clip = rows[0]["clip_id"]
    assert (scored / "videos" / f"{clip}_48fps.mp4").stat().st_size > 300


def test_losses_add_up_for_every_clip(run, scored):
    ledger.run(run, scored)
    check = read_json(scored / "ledger" / "index.json")
    assert "they add up" in check["caption"]
    rows, scores = read(scored, "ledger"), read(scored, "psnr")
    network = {row["clip_id"]: float(row["psnr"]) for row in scores if (row["fps"], row["stage"]) == ("24", "network")}
    assert {row["clip_id"] for row in rows} == network.keys()
    for row in rows:
        losses = [float(row[name]) for name in ledger.LOSSES]
        assert sum(losses) == pytest.approx(float(row["total"]), abs=1e-9)
        assert float(row["decoder"]) - sum(losses) == pytest.approx(float(row["left"]), abs=1e-9)
        assert float(row["left"]) + float(row["interpolation"]) == pytest.approx(network[row["clip_id"]], abs=1e-9)
    mean = {row["stage"]: float(row["mean"]) for row in read(scored, "ledger", "means")}
    assert mean["decoder"] - mean["left"] == pytest.approx(sum(mean[name] for name in ledger.LOSSES), abs=1e-3)


def test_the_ledger_needs_the_own_rate(results, tmp_path):
    (tmp_path / "psnr.csv").write_text("clip_id,fps,stage,psnr\naa,12,decoder,30\n")
    with pytest.raises(VLFMError, match="add 24 to it"):
        ledger.run(Run(small(), results, ["00000"], CPU), tmp_path)


# -------------------------------------------------------------------------------- ablation and speed


@pytest.fixture(scope="module")
def trained(results, tmp_path_factory):
    output = tmp_path_factory.mktemp("heads")
    for head in HEADS:
        ablation.run_part(Run(small(), results, ["00000"], CPU), output, head)
    return output


@pytest.mark.slow
def test_heads_are_compared_after_equal_steps_and_equal_seconds(run, trained):
    ablation.run(run, trained)
    check_files(trained, "ablation", 1)
    rows = {(row["head"], row["equal"]): row for row in read(trained, "ablation")}
    assert len(rows) == 6
    for head in HEADS:
        equal = rows[head, "steps"]
        assert equal["steps"] == "5"
        side = 20 * math.log10(36)
        assert float(equal["psnr_paper_after"]) - float(equal["psnr_after"]) == pytest.approx(side, abs=1e-2)
        assert float(rows[head, "seconds"]["seconds"]) <= float(equal["seconds"])
        assert int(rows[head, "seconds"]["steps"]) <= 5
    assert [rows[head, "steps"]["evaluations"] for head in HEADS] == [str(8 * 4 * 2), "8", "1"]
    shortest = min(rows.values(), key=lambda row: float(row["seconds"]))
    assert rows[shortest["head"], "seconds"]["psnr_after"] == rows[shortest["head"], "steps"]["psnr_after"]


def test_heads_differ_in_the_head_alone(results):
    configs = {head: ablation.configured(small(), head) for head in HEADS}
    assert {head: config.model.head for head, config in configs.items()} == {head: head for head in HEADS}
    assert configs["velocity"].training.pure_noise == configs["velocity"].training.lead_in == 0
    assert configs["coefficients"].training.pure_noise == 0.75
    with pytest.raises(VLFMError, match="unknown head"):
        ablation.configured(small(), "noise")


@pytest.mark.slow
def test_a_head_that_was_killed_goes_on_and_ends_alike(results, trained, tmp_path, monkeypatch):
    real = ablation.Curve.__call__

    def killed(self, network, step):
        if step == 3:
            raise KeyboardInterrupt
        real(self, network, step)

    run = Run(small(), results, ["00000"], CPU)
    monkeypatch.setattr(ablation.Curve, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        ablation.run_part(run, tmp_path, "direct")
    monkeypatch.setattr(ablation.Curve, "__call__", real)
    ablation.run_part(run, tmp_path, "direct")
    mine, whole = (read_json(folder / "ablation" / "direct" / "result.json") for folder in (tmp_path, trained))
    assert mine["after"] == whole["after"] and mine["before"] == whole["before"]
    # The measurement that was cut short is not made up for.
    points = {point["step"]: point["psnr"] for point in whole["curve"]}
    assert {point["step"]: point["psnr"] for point in mine["curve"]} == {k: v for k, v in points.items() if k != 3}
    assert not list((tmp_path / "ablation" / "direct").glob(".*"))


def test_untrained_heads_are_told(run, tmp_path):
    with pytest.raises(VLFMError, match=r"result.json is missing"):
        ablation.run(run, tmp_path)


@pytest.mark.slow
def test_speed_counts_evaluations(run, trained):
    speed.run(run, trained)
    rows = {(row["head"], row["solver"], row["fps"]): row for row in read(trained, "speed")}
    assert len(rows) == 5 * 3 + 1 and ("velocity", "dopri5", "24") in rows, "its steps do not depend on the rate"
    for fps, frames in (("12", 4), ("24", 8), ("48", 16)):
        assert rows["coefficients", "exponential, 1 step", fps]["evaluations"] == "1"
        assert rows["coefficients", "exponential, 8 steps", fps]["evaluations"] == "8"
        assert rows["direct", "a frame at a time", fps]["evaluations"] == str(frames)
        midpoint = rows["velocity", "midpoint", fps]
        assert float(midpoint["fewer"]) == 1
        assert float(rows["coefficients", "exponential, 1 step", fps]["fewer"]) == float(midpoint["evaluations"]) >= 50
        assert float(midpoint["network_seconds"]) > 0
        assert all(bool(row["psnr"]) == (fps == "24") for key, row in rows.items() if key[2] == fps)
    assert "1 network evaluation" in read_json(trained / "speed" / "index.json")["caption"]


@pytest.mark.slow
def test_speed_goes_on_where_the_adaptive_solver_gives_up(run, trained, monkeypatch, capsys):
    monkeypatch.setattr("vlfm.flow.solvers.MOST_STEPS", 1)
    shutil.rmtree(trained / "speed", ignore_errors=True)
    speed.run(run, trained)
    assert {row["solver"] for row in read(trained, "speed")} == {
        solver for way in speed.WAYS.values() for solver, _ in way
    } - {"dopri5"}
    assert "velocity: dopri5 gave up: max_num_steps exceeded" in capsys.readouterr().out
