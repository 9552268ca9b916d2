"""The clips that the theory is measured on, in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vlfm.clips.shards import read_clips
from vlfm.decoders.base import VisualDecoder
from vlfm.errors import VLFMError
from vlfm.frames import to_tensor
from vlfm.latents.store import LatentStore
from vlfm.words import plural

MAX_CLIPS = 64  # a bound on the work, whatever the size of the run
KINDS = ("inverted", "autoencoder")


@dataclass(frozen=True)
class ClipGroup:
    """Clips whose frames lie at the same times (to a nanosecond), B of them, float64.

    Attributes:
        clip_ids: B names.
        times: (N,), seconds.
        latents: u, (B, N, C, h, w), inverted.
        autoencoder: the same frames through the autoencoder alone, of the same shape.
        tokens: (B, L, D) float32. mask: (B, L).
        captions: B texts.
    """

    clip_ids: list[str]
    times: Tensor
    latents: Tensor
    autoencoder: Tensor
    tokens: Tensor
    mask: Tensor
    captions: list[str]

    def of(self, kind: str) -> Tensor:
        """The latents called `inverted` or `autoencoder`."""
        return self.latents if kind == "inverted" else self.autoencoder


def load_groups(results: Path, shards: list[str], decoder: VisualDecoder, limit: int = MAX_CLIPS) -> list[ClipGroup]:
    """At most `limit` clips of the run, the first of the stores, grouped by the times of their frames.

    Clips whose source has fewer frames a second than `clips.fps` are left out: orders are compared up to N.

    Raises:
        VLFMError: if there is no other clip with finite latents.
    """
    found: dict[bytes, list[tuple]] = {}
    left, few = limit, []
    for shard in shards:
        if not left:
            break
        store = LatentStore(results / "latents" / f"{shard}.zarr")
        wanted = set(store.clip_ids[:left])
        left -= len(wanted)
        for clip in read_clips(results / "clips" / f"{shard}.tar", wanted):
            entry = store[clip.clip_id]
            if not np.isfinite(entry.latents).all():
                print(f"clip {clip.clip_id} is left out: its latents are not finite; invert it again")
                continue
            if len(entry.times) < store.num_frames:
                few.append(clip.clip_id)
                continue
            encoded = decoder.encode(to_tensor(clip.frames)).cpu()
            found.setdefault(entry.times.round(9).tobytes(), []).append((entry, encoded))
    if few:
        print(f"{plural(len(few), 'clip')} with fewer frames a second than clips.fps left out, {few[0]} the first")
    if not found:
        raise VLFMError(
            f"no clip with finite latents and all N frames in {results / 'latents'}; run `snakemake --cores all` again"
        )
    return [
        ClipGroup(
            clip_ids=[entry.clip_id for entry, _ in members],
            times=torch.from_numpy(members[0][0].times.copy()),
            latents=torch.from_numpy(np.stack([entry.latents for entry, _ in members])).double(),
            autoencoder=torch.stack([encoded for _, encoded in members]).double(),
            tokens=torch.from_numpy(np.stack([entry.tokens for entry, _ in members])),
            mask=torch.from_numpy(np.stack([entry.mask for entry, _ in members])),
            captions=[entry.caption for entry, _ in members],
        )
        for members in found.values()
    ]


def count_clips(groups: list[ClipGroup]) -> int:
    return sum(len(group.clip_ids) for group in groups)


def rms(groups: list[ClipGroup], kind: str) -> float:
    """RMS of all latents of a kind."""
    return float(torch.cat([group.of(kind).square().flatten(1).mean(1) for group in groups]).mean().sqrt())


def pooled(groups: list[ClipGroup], measure: Callable[[ClipGroup], Tensor]) -> tuple[float, str]:
    """Root mean square of one value a clip over all groups, and why it is NaN if it is."""
    try:
        values = torch.cat([measure(group) for group in groups])
    except VLFMError as error:
        return float("nan"), str(error)
    value = float(values.square().mean().sqrt())
    if not np.isfinite(value):
        return float("nan"), "the result is not finite: the method overflows at this order"
    return value, ""


def spread(groups: list[ClipGroup], count: int) -> list[tuple[int, int, int]]:
    """At most `count` frames, spread evenly over clips and times: (group, clip, frame), never a last frame."""
    frames = [
        (g, c, n)
        for g, group in enumerate(groups)
        for c in range(len(group.clip_ids))
        for n in range(len(group.times) - 1)
    ]
    picked = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[index] for index in picked]
