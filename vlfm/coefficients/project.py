"""The projection stage: latents of one shard → Legendre coefficients H of each clip."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.artifacts import LedgerRow, fingerprint, progress, write_json, write_ledger
from vlfm.coefficients.shards import ClipCoefficients, write_shard
from vlfm.flow.projection import project, projection_matrix
from vlfm.latents.store import LatentStore


def project_shard(config: configs.Config, latents: Path, output: Path, moments: Path, ledger: Path) -> None:
    """Project a shard of latents; every clip with the weights of its own frame times.

    Args:
        output: the coefficient shard, a tar.
        moments: JSON with the number of clips and, per order, the mean square of H over the shard, from which
            training takes its scales without reading the shards twice.
        ledger: one row per clip.
    """
    store = LatentStore(latents)
    squares = np.zeros(config.flow.order)
    rows: list[LedgerRow] = []

    def clips() -> Iterator[ClipCoefficients]:
        nonlocal squares
        weights: dict[bytes, torch.Tensor] = {}
        bar = progress(store, total=len(store), what=f"project {latents.stem}")
        for clip in bar:
            start = time.perf_counter()
            key = clip.times.tobytes()
            if key not in weights:
                weights[key] = projection_matrix(
                    torch.from_numpy(clip.times),
                    config.flow.order,
                    config.clips.duration,
                    config.flow.projection,
                    config.flow.ridge,
                )
            coefficients = project(torch.from_numpy(clip.latents)[None], weights[key])[0].contiguous().numpy()
            squares = squares + np.square(coefficients, dtype=np.float64).mean((0, 1, 2))
            rows.append(
                LedgerRow(
                    clip_id=clip.clip_id,
                    stage="project",
                    status="ok",
                    seconds=time.perf_counter() - start,
                    bytes=coefficients.nbytes,
                )
            )
            yield ClipCoefficients(
                clip.clip_id, coefficients, clip.tokens, clip.mask, clip.caption, clip.times
            )

    count = write_shard(output, clips())
    write_ledger(ledger, rows)
    write_json(
        moments,
        {
            "clips": count,
            "mean_square": (squares / count).tolist(),
            "shape": list(store[store.clip_ids[0]].latents.shape[1:]),
            "caption_channels": int(store[store.clip_ids[0]].tokens.shape[-1]),
            "fingerprint": fingerprint({"latents": store.fingerprint, **configs.settings(config, "flow")}),
        },
    )
