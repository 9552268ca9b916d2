"""A finished run, small: clips of three sources, latents, coefficients, decoder and model, all real."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import SMALL, make_config, merge
from tests.data.latents import write_clips, write_decoder
from vlfm.captions.encoders import CaptionEmbeddings
from vlfm.clips.shards import read_clips
from vlfm.coefficients.project import project_shard
from vlfm.decoders.load import load_decoder
from vlfm.evaluation.generation.trained_features import FeatureSettings, TrainedFeatures
from vlfm.finished_run import Run
from vlfm.frames import to_tensor
from vlfm.latents.store import ClipLatents, LatentStore, write_store
from vlfm.storage.files import write_json
from vlfm.storage.manifest import Clip, write_manifest
from vlfm.storage.tar import read_tar, write_tar
from vlfm.training.loop import train

CPU = torch.device("cpu")
FRAMES, SIZE, COUNT = 8, 36, 4
DURATION = FRAMES / 24
SHARDS = ["00000", "00001"]
SPLITS = {"00000": "train", "00001": "test"}


def small(**change):
    """The configuration of the run; two clips, one scene."""
    base = {
        "clips": {"size": SIZE, "duration": DURATION},
        "inversion": {"steps": 2},
        "flow": {"order": 4},
        "training": {"steps": 4, "checkpoint_every": 4, "workers": 0},
        "evaluation": {"fps": [12, 24, 48]},
        "experiments": {"clips": 2, "scenes": 1, "videos": 1, "orders": [2, 4, 6], "ablation_steps": 5},
    }
    return make_config(**merge(merge({**SMALL, "experiments": {}}, base), change))


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """The run's folder. Clips 0, 1 and 2 follow one another in their source, clip 3 stands alone."""
    folder, config = tmp_path_factory.mktemp("run"), small()
    write_decoder(folder / "decoder")
    (folder / "clips").mkdir()
    write_clips(folder / "clips" / "00000.tar", COUNT, frames=FRAMES, height=SIZE, width=SIZE)
    clips = list(read_clips(folder / "clips" / "00000.tar"))
    starts = [0.0, DURATION + 0.01, 2 * DURATION + 0.02, 9.0]
    write_manifest(
        folder / "clips" / "manifest.parquet",
        [
            Clip(clip.clip_id, "made.mp4", start, start + DURATION, clip.caption, 2, 0, SIZE, SIZE)
            for clip, start in zip(clips, starts, strict=True)
        ],
    )
    write_json(folder / "clips" / "shards.json", {"00000": {"clips": COUNT}})
    decoder, random = load_decoder(config, folder / "decoder", CPU), np.random.default_rng(0)
    stored = [
        ClipLatents(
            clip.clip_id,
            decoder.invert(to_tensor(clip.frames)).numpy(),
            clip.times,
            random.standard_normal((5, 6)).astype("f4"),
            np.ones(5, bool),
            clip.caption,
            30.0,
            DURATION,
        )
        for clip in clips
    ]
    store = folder / "latents" / "00000.zarr"
    write_store(store, stored, "float32", "f00d", {}, fps=24.0, height=SIZE, width=SIZE)
    coefficients = folder / "coefficients"
    coefficients.mkdir()
    tar, moments = coefficients / "00000.tar", coefficients / "00000.json"
    project_shard(config, store, tar, moments, coefficients / "l.parquet")
    train(config, [tar], [moments], folder / "model", folder / "checkpoints", folder / "model" / "metrics.csv", CPU)
    return folder


@pytest.fixture
def run(results):
    return Run(small(), results, ["00000"], CPU)


@pytest.fixture(scope="session")
def parted(results, tmp_path_factory):
    """The run with a second shard, of test clips: the first one's under names that begin with an f."""
    folder = tmp_path_factory.mktemp("parted") / "results"
    shutil.copytree(results, folder)

    def renamed(sample):
        name = f"f{sample['__key__'][1:]}"
        return {**sample, "__key__": name, "json": json.dumps({**json.loads(sample["json"]), "clip_id": name}).encode()}

    write_tar(folder / "clips" / "00001.tar", map(renamed, read_tar(folder / "clips" / "00000.tar")))
    clips = [replace(clip, clip_id=f"f{clip.clip_id[1:]}") for clip in LatentStore(folder / "latents" / "00000.zarr")]
    store = folder / "latents" / "00001.zarr"
    write_store(store, clips, "float32", "f00d", {}, fps=24.0, height=SIZE, width=SIZE)
    tar = folder / "coefficients" / "00001.tar"
    project_shard(small(), store, tar, tar.with_suffix(".json"), tar.with_suffix(".parquet"))
    return folder


def write_judges(folder, channels):
    """Judges that hardly learnt a thing, for captions of a width."""
    clips = list(read_clips(folder / "clips" / "00000.tar"))
    captions = CaptionEmbeddings(torch.randn(2, 1, channels), torch.ones(2, 1).bool())
    settings = FeatureSettings(frames=2, width=4, dims=8, embedding=8, steps=2, batch_size=4)
    own = np.arange(len(clips)) % 2
    features = TrainedFeatures.fit([clip.frames for clip in clips], captions, own, 0, settings)
    features.save(folder / "judges" / "features")
    about = {"fingerprint": "aa", "clips": len(clips), "features": True, "digits": False}
    write_json(folder / "judges" / "judges.json", about)


@pytest.fixture(scope="session")
def judged(parted):
    """The run of two splits with judges and an empty caption."""
    write_judges(parted, 6)
    (parted / "captions").mkdir()
    save_file({"tokens": torch.zeros(5, 6), "mask": torch.ones(5).bool()}, parted / "captions" / "empty.safetensors")
    return parted
