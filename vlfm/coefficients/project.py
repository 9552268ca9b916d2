"""The projection stage: latents of one shard → coefficients H of each clip."""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.coefficients.shards import ClipCoefficients, write_shard
from vlfm.errors import VLFMError
from vlfm.flow.projection import project, projection_matrix
from vlfm.latents.store import ClipLatents, LatentStore
from vlfm.progress import progress
from vlfm.storage.files import write_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.storage.ledger import LedgerRow, write_ledger

# The ridge for clips whose source has fewer frames a second than `clips.fps`. At every length and rate tried, it beats
# a lower order, which holds the higher coefficients at zero: `benchmarks/slow_sources.py`.
FEW_FRAMES_RIDGE = 1e-5

VERSION = 5  # of what this module writes; raise it when the same settings give other files


def project_shard(config: configs.Config, latents: Path, output: Path, moments: Path, ledger: Path) -> None:
    """Project a shard of latents; every clip with the weights of its own frame times.

    A clip with fewer than N frames leaves some of its coefficients open. With `flow.projection` lstsq a ridge
    decides them: of all paths near the frames the one that bends least.

    Args:
        output: the coefficient shard, a tar.
        moments: JSON with the number of clips and, per order, the mean square of H over the shard, from which
            training takes its scales without reading the shards twice; `shape` (C, h, w), `duration` and `num_frames`,
            which shards of one run may differ in; and a fingerprint, which they may not.
        ledger: one row per clip.

    Raises:
        VLFMError: if a clip has too few frames for the paper's recurrence, euler, or latents that are not finite.
    """
    store = LatentStore(latents)
    squares = np.zeros(config.flow.order)
    caption_squares = 0.0
    caption_channels = int(store[store.clip_ids[0]].tokens.shape[-1])
    token_sum, token_squares = np.zeros(caption_channels), np.zeros(caption_channels)
    first, last = 0.0, 1.0
    warned: list[str] = []
    rows: list[LedgerRow] = []

    def clips() -> Iterator[ClipCoefficients]:
        nonlocal squares, caption_squares, token_sum, token_squares, first, last
        weights: dict[bytes, torch.Tensor] = {}
        bar = progress(store, total=len(store), what=f"project {latents.stem}")
        for clip in bar:
            start = time.perf_counter()
            key = clip.times.tobytes()
            if key not in weights:
                weights[key], told = _weights(config, clip, store)
                warned.extend(told)
            coefficients = project(torch.from_numpy(clip.latents)[None], weights[key])[0].contiguous().numpy()
            squares = squares + np.square(coefficients, dtype=np.float64).mean((0, 1, 2))
            caption_squares += float(np.square(clip.tokens[clip.mask], dtype=np.float64).mean())
            mean_token = clip.tokens[clip.mask].mean(0, dtype=np.float64)
            token_sum, token_squares = token_sum + mean_token, token_squares + np.square(mean_token)
            if len(clip.times) == store.num_frames:
                first = max(first, float(clip.times[0] / clip.duration))
                last = min(last, float(clip.times[-1] / clip.duration))
            rows.append(
                LedgerRow(
                    clip_id=clip.clip_id,
                    stage="project",
                    status="ok",
                    seconds=time.perf_counter() - start,
                    bytes=coefficients.nbytes,
                )
            )
            yield of_clip(clip, coefficients)

    count = write_shard(output, clips())
    if warned:
        print(f"warning: {warned[0]}")
    write_ledger(ledger, rows)
    write_json(
        moments,
        {
            "clips": count,
            "mean_square": (squares / count).tolist(),
            "caption_mean_square": caption_squares / count,
            "mean_token": (token_sum / count).tolist(),
            "mean_token_square": (token_squares / count).tolist(),
            "shape": list(store.shape),
            "duration": store.duration,
            "num_frames": store.num_frames,
            # Shares of T between which every clip of N frames was seen: beyond them a path means nothing.
            "observed": [first, last],
            "caption_channels": caption_channels,
            "fingerprint": fingerprint(
                {
                    "version": VERSION,
                    "latents": store.fingerprint,
                    **configs.settings(config, "flow.basis", "flow.order", "flow.projection", "flow.ridge"),
                }
            ),
        },
    )


def _weights(config: configs.Config, clip: ClipLatents, store: LatentStore) -> tuple[torch.Tensor, list[str]]:
    """The weights of a clip's frame times, and what the projection warned of: told once a shard, not once a clip."""
    method, ridge = config.flow.projection, config.flow.ridge
    few = len(clip.times) < store.num_frames
    if few and method == "lstsq":
        ridge = max(ridge, FEW_FRAMES_RIDGE)
    basis = clip_basis(config, clip.duration)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            weights = projection_matrix(torch.from_numpy(clip.times), basis, method, ridge)
    except VLFMError as error:
        remedy = f"; its source has few frames a second: set clips.min_frames to {basis.order}" if few else ""
        raise VLFMError(f"clip {clip.clip_id}: {error}{remedy}") from error
    return weights, [str(warning.message) for warning in caught]


def of_clip(clip: ClipLatents, coefficients: np.ndarray) -> ClipCoefficients:
    """Coefficients with all that a shard holds of their clip."""
    return ClipCoefficients(
        clip.clip_id,
        coefficients,
        clip.tokens,
        clip.mask,
        clip.caption,
        clip.times,
        clip.duration,
        len(clip.times),
    )
