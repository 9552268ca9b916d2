"""Coefficient shards on disk for tests of what reads them."""

import numpy as np

from vlfm.coefficients.shards import ClipCoefficients, write_shard
from vlfm.storage.files import write_json


def write_shards(
    folder,
    config,
    clips=7,
    shards=2,
    channels=8,
    positions=8,
    fingerprint="f00d",
    shape=None,
    duration=0.5,
    num_frames=12,
    first_id=0,
):
    """Random coefficients with falling orders; returns the clips, the tars and their moments."""
    random = np.random.default_rng(first_id)
    order = config.flow.order
    shape = shape or (channels, positions, positions)
    made = [
        ClipCoefficients(
            f"{first_id + index:016x}",
            (random.standard_normal((*shape, order)) / (1 + np.arange(order))).astype("f4"),
            random.standard_normal((5, 6)).astype("f4"),
            np.arange(5) < 4,
            f"caption {index}",
            np.arange(1, num_frames + 1) * duration / num_frames,
            duration,
            num_frames,
        )
        for index in range(clips)
    ]
    tars, moments = [], []
    for shard in range(shards):
        part = made[shard::shards]
        tars.append(folder / f"{shard:05d}.tar")
        moments.append(folder / f"{shard:05d}.json")
        write_shard(tars[-1], iter(part))
        write_json(
            moments[-1],
            {
                "clips": len(part),
                "mean_square": np.mean([np.square(c.coefficients).mean((0, 1, 2)) for c in part], 0).tolist(),
                "caption_mean_square": float(np.mean([np.square(c.tokens[c.mask]).mean() for c in part])),
                "mean_token": np.mean([mean_token(c) for c in part], 0).tolist(),
                "mean_token_square": np.mean([np.square(mean_token(c)) for c in part], 0).tolist(),
                "shape": list(shape),
                "duration": duration,
                "num_frames": num_frames,
                "caption_channels": 6,
                "fingerprint": fingerprint,
            },
        )
    return made, tars, moments


def mean_token(clip: ClipCoefficients) -> np.ndarray:
    return clip.tokens[clip.mask].mean(0, dtype=np.float64)
