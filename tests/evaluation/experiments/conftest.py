"""A finished run, small: clips of three sources, latents, coefficients, decoder and model, all real."""

import numpy as np
import pytest
import torch

from tests.conftest import SMALL, make_config, merge
from tests.latents_data import write_clips, write_decoder
from vlfm.artifacts import Clip, write_json, write_manifest
from vlfm.clips.shards import read_clips
from vlfm.coefficients.project import project_shard
from vlfm.evaluation.experiments.common import Run
from vlfm.latents.frames import to_tensor
from vlfm.latents.load import load_decoder
from vlfm.latents.store import ClipLatents, write_store
from vlfm.training.loop import train

CPU = torch.device("cpu")
FRAMES, SIZE, COUNT = 8, 36, 4
DURATION = FRAMES / 24


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
