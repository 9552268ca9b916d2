"""The sweep of depths on a small run: what each stage is given, and what is said of it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.experiments.conftest import CPU, FRAMES, SHARDS, SPLITS, small, write_judges
from tests.experiments.test_experiments import check_files, read
from vlfm.clips.shards import read_clips, read_ids
from vlfm.coefficients.basis import clip_basis
from vlfm.coefficients.shards import read_shard
from vlfm.errors import VLFMError
from vlfm.experiments import depth
from vlfm.experiments.shared.path_errors import round_trip_and_loss, share_left
from vlfm.finished_run import Run
from vlfm.flow.projection import project, projection_matrix
from vlfm.frames import psnr, to_tensor
from vlfm.latents.invert import invert_shard
from vlfm.latents.store import LatentStore
from vlfm.storage.files import read_json
from vlfm.training.objective import Objective

pytestmark = pytest.mark.slow

DEPTHS = (0, 0.5, 1)


def settings(**change):
    return small(experiments={"depths": list(DEPTHS), "depth_steps": 3, "depth_clips": 3}, **change)


@pytest.fixture(scope="module")
def folder(parted, tmp_path_factory):
    """The run of two splits with captions of the real encoder, and judges."""
    folder = tmp_path_factory.mktemp("depth") / "results"
    for name in ("clips", "decoder"):
        shutil.copytree(parted / name, folder / name)
    for shard in SHARDS:
        store = folder / "latents" / f"{shard}.zarr"
        invert_shard(
            small(), folder / "clips" / f"{shard}.tar", folder / "decoder", store, store.with_suffix(".l"), CPU
        )
    write_judges(folder, 384)
    return folder


def a_run(folder, config=None):
    return Run(config or settings(), folder, SHARDS, CPU, SPLITS)


@pytest.fixture(scope="module")
def tried(folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("sweep")
    for part in ("prepare", *(f"{each:g}" for each in DEPTHS)):
        depth.run_part(a_run(folder), output, part)
    return output


def test_of_each_split_some_clips_go_through_the_stages(tried):
    assert read_json(tried / "depth" / "prepared.json")["clips"] == {"00000": 3, "00001": 3}
    assert not (tried / "depth" / "decoder").exists(), "the run's own has a noise predictor"
    for each in DEPTHS:
        here = tried / "depth" / f"{each:g}"
        for shard in SHARDS:
            store, tar = LatentStore(here / "latents" / f"{shard}.zarr"), here / "coefficients" / f"{shard}.tar"
            names = read_ids(tried / "depth" / "clips" / f"{shard}.tar")
            assert store.clip_ids == [clip.clip_id for clip in read_shard(tar)] == names
            assert store.about["inversion"]["depth"] == each
        assert read_json(here / "model" / "training.json") | {"fingerprint": ""} == {
            "fingerprint": "", "steps": 3, "clips": 3, "skipped": 0,
        }  # fmt: skip
        assert not (here / "checkpoints").exists()


def test_latents_lie_where_the_depth_says(tried, folder):
    """At 0 the autoencoder's, at 1 those of the run, which is inverted to noise."""
    at = {each: LatentStore(tried / "depth" / f"{each:g}" / "latents" / "00000.zarr") for each in DEPTHS}
    whole = LatentStore(folder / "latents" / "00000.zarr")
    decoder = a_run(folder).decoder
    for clip in read_clips(tried / "depth" / "clips" / "00000.tar"):
        frames = torch.from_numpy(clip.frames).movedim(-1, 1) / 127.5 - 1
        assert np.allclose(at[0][clip.clip_id].latents, decoder.encode(frames), atol=2e-2)
        assert np.allclose(at[1][clip.clip_id].latents, whole[clip.clip_id].latents, atol=2e-2)
        assert not np.allclose(at[0.5][clip.clip_id].latents, whole[clip.clip_id].latents, atol=0.1)


def test_every_depth_is_a_row_of_each_split(folder, tried):
    depth.run(a_run(folder), tried)
    check_files(tried, "depth", 1)
    rows = read(tried, "depth")
    assert list(rows[0])[:6] == ["depth", "split", "round_trip", "projection_loss", "left", "digit"]
    assert [(float(row["depth"]), row["split"]) for row in rows] == [
        (each, split) for each in DEPTHS for split in ("train", "test")
    ]
    for row in rows:
        assert 0 < float(row["left"]) < 3 and float(row["round_trip"]) > 10 and row["projection_loss"]
        assert row["caption_accuracy"] and row["sharpness"]
    (group,) = read_json(tried / "depth" / "index.json")["groups"]
    assert [video["label"] for video in group["videos"]] == ["true", *(f"depth {each:g}" for each in DEPTHS)]
    assert "held out captions" in read_json(tried / "depth" / "index.json")["caption"]


def test_a_killed_job_inverts_nothing_again_and_ends_alike(folder, tried, tmp_path, monkeypatch):
    def killed(*given):
        raise KeyboardInterrupt

    run = a_run(folder)
    depth.run_part(run, tmp_path, "prepare")
    with monkeypatch.context() as patch:
        patch.setattr(depth, "Jury", killed)
        with pytest.raises(KeyboardInterrupt):
            depth.run_part(run, tmp_path, "0.5")
    with monkeypatch.context() as patch:
        patch.setattr(depth, "invert_shard", killed)
        depth.run_part(run, tmp_path, "0.5")
    mine, whole = (read_json(output / "depth" / "0.5" / "result.json") for output in (tmp_path, tried))
    assert mine == whole
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(depth, "invert_shard", killed)
        depth.run_part(a_run(folder, settings(inversion={"refine": 0})), tmp_path, "0.5")


def test_a_run_without_noise_predictor_gets_one_for_the_sweep(folder, tmp_path):
    alone = settings(inversion={"depth": 0}, decoder={"embedded": {"steps": 2, "channels": 8}})
    run = a_run(folder, alone)
    assert depth.needs_predictor(alone) and not depth.needs_predictor(settings())
    with pytest.raises(VLFMError, match=r"prepared\.json is missing"):
        depth.run_part(run, tmp_path, "0.5")
    none = settings(inversion={"depth": 0}, decoder={"embedded": {"steps": 0, "channels": 8}})
    with pytest.raises(VLFMError, match=r"decoder\.embedded\.steps is 0"):
        depth.run_part(a_run(folder, none), tmp_path, "prepare")
    depth.run_part(run, tmp_path, "prepare")
    own = tmp_path / "depth" / "decoder"
    assert (own / "unet").exists() and read_json(own / "decoder.json")["settings"]["decoder.embedded"]["steps"] == 2
    depth.run_part(run, tmp_path, "0.5")
    assert (tmp_path / "depth" / "0.5" / "result.json").exists()


def test_depth_0_leaves_null_text_out():
    guided = settings().model_dump()
    guided["decoder"] |= {"name": "stable-diffusion", "model": "/models/sd"}
    guided["inversion"] |= {"null_text": 3, "guidance": 4.0, "prompt": "caption"}
    config = type(settings()).model_validate(guided)
    assert depth.configured(config, 0.0).inversion.null_text == 0
    assert depth.configured(config, 0.5).inversion.null_text == 3
    with pytest.raises(VLFMError, match=r"depth 1\.5"):
        depth.configured(config, 1.5)


def test_what_cannot_be_swept_is_told(folder, tmp_path):
    with pytest.raises(VLFMError, match=r"--part deep"):
        depth.run_part(a_run(folder), tmp_path, "deep")
    values = settings().model_dump()
    values["decoder"] |= {"name": "autoencoder", "model": "/models/vae"}
    with pytest.raises(VLFMError, match="nothing to compare"):
        depth.run_part(a_run(folder, type(settings()).model_validate(values)), tmp_path, "prepare")


# ----------------------------------------------------------------------------------------- measures


def test_a_path_of_few_orders_costs_something_and_one_through_every_frame_nothing(folder, tried):
    run, here = a_run(folder, depth.configured(settings(), 0.0)), tried / "depth" / "0"
    store = LatentStore(here / "latents" / "00000.zarr")
    decoded = {clip.clip_id: clip for clip in read_clips(tried / "depth" / "clips" / "00000.tar")}
    for clip in read_shard(here / "coefficients" / "00000.tar"):
        frames, stored = decoded[clip.clip_id], store[clip.clip_id]
        drawn, through_all = (clip_basis(run.config, clip.duration, order) for order in (None, FRAMES))
        truth = to_tensor(frames.frames)
        measured = float(psnr(run.decoder.generate(torch.from_numpy(stored.latents)).cpu(), truth).mean())
        round_trip, lost = round_trip_and_loss(run.decoder, frames, stored, clip, drawn)
        assert round_trip == pytest.approx(measured, abs=1e-3) and lost > 0.1
        weights = projection_matrix(torch.from_numpy(clip.times), through_all)
        through = replace(clip, coefficients=project(torch.from_numpy(stored.latents)[None], weights)[0].numpy())
        assert round_trip_and_loss(run.decoder, frames, stored, through, through_all) == pytest.approx(
            (measured, 0), abs=0.01
        )


def test_the_share_left_is_1_for_a_network_that_says_nothing_and_0_for_one_that_knows(tried):
    config = depth.configured(settings(), 0.0)
    tar = tried / "depth" / "0" / "coefficients" / "00001.tar"
    objective = Objective(config)

    class Says:
        device, latent_scale = CPU, torch.tensor(1.7)

        def __init__(self, share):
            self.share, self.transformer = share, self

        def __call__(self, psi, t, tokens, mask, duration=None):
            return self.share * objective.truth / 1.7

    real = Objective.__call__

    def told(self, model, batch, draw, scale):
        self.truth = batch.coefficients
        return real(self, model, batch, draw, scale)

    objective.__class__ = type("Told", (Objective,), {"__call__": told})
    for share, left in ((0.0, 1.0), (1.0, 0.0), (0.5, 0.25)):
        assert share_left(Says(share), objective, [tar]) == pytest.approx(left, abs=1e-5)
