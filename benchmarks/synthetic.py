"""Coefficient shards of noise, of any size: what a benchmark of training reads where there is no run."""

from pathlib import Path

import numpy as np

from vlfm.coefficients.shards import ClipCoefficients, write_shard
from vlfm.storage.files import write_json


def write_shards(
    folder: Path,
    clips: int,
    shape: tuple[int, int, int],
    order: int,
    num_frames: int,
    duration: float,
    caption: tuple[int, int] = (32, 384),
    shard_size: int = 64,
) -> tuple[list[Path], list[Path]]:
    """Write tars and their moments; returns both.

    Args:
        shape: (C, h, w). caption: tokens and width of a caption's embedding.
    """
    random = np.random.default_rng(0)
    falling = 1 / (1 + np.arange(order, dtype=np.float32))
    tars, moments = [], []
    for first in range(0, clips, shard_size):
        made = [
            ClipCoefficients(
                f"{index:016x}",
                random.standard_normal((*shape, order), dtype=np.float32) * falling,
                random.standard_normal(caption, dtype=np.float32),
                np.ones(caption[0], dtype=bool),
                "noise",
                np.arange(1, num_frames + 1) * duration / num_frames,
                duration,
                num_frames,
            )
            for index in range(first, min(first + shard_size, clips))
        ]
        tars.append(folder / f"{len(tars):05d}.tar")
        moments.append(tars[-1].with_suffix(".json"))
        write_shard(tars[-1], iter(made))
        about = {
            "clips": len(made),
            "mean_square": (falling.astype(float) ** 2).tolist(),
            "caption_mean_square": 1.0,
            "mean_token": [0.0] * caption[1],
            "mean_token_square": [1 / caption[0]] * caption[1],
            "shape": list(shape),
            "duration": duration,
            "num_frames": num_frames,
            "caption_channels": caption[1],
            "fingerprint": "made up",
        }
        write_json(moments[-1], about)
    return tars, moments
