"""A finished run of a few moving digits, training clips and held-out ones, every stage real."""

import io
import json

import numpy as np
import torch
from PIL import Image

from tests.conftest import SMALL, make_config, merge
from tests.evaluation.generation.conftest import FPS, FRAMES, SIDE, draw
from vlfm.clips.moving_digits.language import parse_caption
from vlfm.coefficients.project import project_shard
from vlfm.decoders.prepare import prepare_decoder
from vlfm.latents.invert import invert_shard
from vlfm.storage.files import write_json
from vlfm.storage.tar import write_tar
from vlfm.training.loop import train

CPU = torch.device("cpu")
SPLITS = {"00000": "train", "00001": "train", "00002": "test"}
TOLD = {
    "train": [
        "a red two moves right slowly",
        "a blue seven moves up quickly",
        "a green two moves left quickly",
        "a yellow seven moves down slowly",
        "a red four moves up slowly",
        "a blue four moves right quickly",
    ],
    "test": ["a blue two moves right slowly", "a red seven moves up quickly", "a green four moves down slowly"],
}


def digits_config(**change):
    """The configuration of the run: autoencoder latents, a network for which 4 steps are enough to write files."""
    base = {
        "clips": {"size": SIDE, "duration": FRAMES / FPS, "fps": FPS},
        "decoder": {"embedded": {"patch": 4, "channels": 12, "steps": 0}},
        "inversion": {"depth": 0},
        "model": {"head_dim": 96},
        "training": {"steps": 4, "checkpoint_every": 4},
        "generation": {"captions": 3, "seeds": 3, "steps": [1, 2]},
        "evaluation": {"fps": [8], "steps": 2},
    }
    return make_config(**merge(merge({**SMALL, "generation": {}}, base), change))


def write_clips(path, captions, first=0, told=None):
    """A clip a caption, drawn, in a tar as `vlfm decode` writes it; `told` are other words for them."""
    samples = []
    for index, caption in enumerate(captions, first):
        frames = draw(parse_caption(caption), np.random.default_rng(index))
        info = {
            "clip_id": f"{index:016x}",
            "times": (np.arange(1, len(frames) + 1) / FPS).tolist(),
            "fps": FPS,
            "duration": len(frames) / FPS,
            "source": "made.mp4",
            "row": index + 2,
        }
        text = told[index - first] if told else caption
        members = {"json": json.dumps(info).encode(), "txt": text.encode()}
        for number, frame in enumerate(frames):
            buffer = io.BytesIO()
            Image.fromarray(frame).save(buffer, "png")
            members[f"{number:03d}.png"] = buffer.getvalue()
        samples.append({"__key__": f"{index:016x}", **members})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tar(path, samples)


def write_digits(folder, config, each=3):
    """Clips, `each` of a caption, latents, coefficients, decoder and model in `folder`."""
    shards = {
        "00000": [caption for caption in TOLD["train"][:3] for _ in range(each)],
        "00001": [caption for caption in TOLD["train"][3:] for _ in range(each)],
        "00002": [caption for caption in TOLD["test"] for _ in range(each)],
    }
    first = 0
    for shard, captions in shards.items():
        write_clips(folder / "clips" / f"{shard}.tar", captions, first)
        first += len(captions)
    plan = {shard: {"clips": len(captions), "split": SPLITS[shard]} for shard, captions in shards.items()}
    write_json(folder / "clips" / "shards.json", plan)
    trained = [shard for shard, split in SPLITS.items() if split == "train"]
    prepare_decoder(config, [folder / "clips" / f"{shard}.tar" for shard in trained], folder / "decoder", CPU)
    for shard in shards:
        store = folder / "latents" / f"{shard}.zarr"
        ledger = store.with_suffix(".ledger.parquet")
        invert_shard(config, folder / "clips" / f"{shard}.tar", folder / "decoder", store, ledger, CPU)
        tar = folder / "coefficients" / f"{shard}.tar"
        project_shard(config, store, tar, tar.with_suffix(".json"), tar.with_suffix(".parquet"))
    tars = [folder / "coefficients" / f"{shard}.tar" for shard in trained]
    moments = [tar.with_suffix(".json") for tar in tars]
    train(config, tars, moments, folder / "model", folder / "checkpoints", folder / "model" / "metrics.csv", CPU)
