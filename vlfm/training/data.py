"""What training reads: the moments of all shards, and batches of clips."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlfm.errors import VLFMError
from vlfm.model.flow_model import EVERYWHERE
from vlfm.storage.files import read_json

ALIKE = ("fingerprint", "caption_channels")  # the same in all shards that belong together
CAPTIONS = ("caption_mean_square", "mean_token", "mean_token_square")
NEEDED = ("clips", "mean_square", *CAPTIONS, "shape", "duration", "num_frames", *ALIKE)


@dataclass(frozen=True)
class ShardMoments:
    """What one shard says about itself; all its clips are of one length and one size.

    Attributes:
        clips: how many there are.
        shape: (C, h, w) of a latent.
        duration: T, seconds. num_frames: N.
    """

    clips: int
    shape: tuple[int, int, int]
    duration: float
    num_frames: int


@dataclass(frozen=True)
class Moments:
    """What the shards say about themselves without being read.

    Attributes:
        clips: how many there are.
        mean_square: (s,) float64, E[H_n²] over all clips and positions.
        caption_mean_square: E[e²] over the entries of all captions' token embeddings.
        mean_token, mean_token_square: (D,) float64, E[p] and E[p²] of the mean p of a caption's token embeddings.
        caption_channels: D, width of a caption's token embedding.
        fingerprint: of the projection that made them, the same in every shard.
        shards: each shard's own, in the order of the files.
        observed: T → (first, last), shares of T: every clip of that length with N frames has frames from first to last.
    """

    clips: int
    mean_square: torch.Tensor
    caption_mean_square: float
    mean_token: torch.Tensor
    mean_token_square: torch.Tensor
    caption_channels: int
    fingerprint: str
    shards: tuple[ShardMoments, ...]
    observed: Mapping[float, tuple[float, float]] = field(default_factory=dict)

    @property
    def order(self) -> int:
        """s, the number of basis functions."""
        return len(self.mean_square)

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """The shapes (C, h, w) that occur, the one with the most positions first."""
        return tuple(sorted({shard.shape for shard in self.shards}, key=lambda shape: (-math.prod(shape), shape)))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the largest latents."""
        return self.shapes[0]

    @property
    def durations(self) -> tuple[float, ...]:
        """The clip lengths T that occur, seconds, the shortest first."""
        return tuple(sorted({shard.duration for shard in self.shards}))


def read_moments(paths: list[Path]) -> Moments:
    """Combine the moments of all shards.

    Raises:
        VLFMError: if there is no shard, a shard's numbers are not finite, or shards were made with different
            settings: another projection, order or decoder; names two that differ.
    """
    if not paths:
        raise VLFMError("there is no coefficient shard to train on; run `snakemake --cores all coefficients` first")
    parts = {path: read_json(path) for path in paths}
    first, reference = next(iter(parts.items()))
    for path, part in parts.items():
        if missing := set(NEEDED) - part.keys():
            raise VLFMError(
                f"{path} lacks {', '.join(sorted(missing))}: another version wrote it; remove it and run "
                "`snakemake` again"
            )
        for what, mine, others in (
            *((key, part[key], reference[key]) for key in ALIKE),
            ("order", len(part["mean_square"]), len(reference["mean_square"])),
            ("number of latent channels", part["shape"][0], reference["shape"][0]),
        ):
            if mine != others:
                raise VLFMError(
                    f"{path} and {first} do not belong together: their {what} differ ({mine} and {others}); "
                    "remove the older and run `snakemake` again"
                )
        if not np.isfinite([*part["mean_square"], part["caption_mean_square"]]).all():
            raise VLFMError(
                f"{path}: the mean squares of its shard are not finite; remove both and run their rule again"
            )
    clips = sum(part["clips"] for part in parts.values())

    def mean(key: str):
        return sum(part["clips"] * np.array(part[key]) for part in parts.values()) / clips

    return Moments(
        clips,
        torch.from_numpy(mean("mean_square")),
        float(mean("caption_mean_square")),
        torch.from_numpy(mean("mean_token")),
        torch.from_numpy(mean("mean_token_square")),
        reference["caption_channels"],
        reference["fingerprint"],
        tuple(
            ShardMoments(part["clips"], tuple(part["shape"]), float(part["duration"]), int(part["num_frames"]))
            for part in parts.values()
        ),
        _observed(parts.values()),
    )


def _observed(parts: Iterable[Mapping[str, Any]]) -> dict[float, tuple[float, float]]:
    found: dict[float, tuple[float, float]] = {}
    for part in parts:
        duration, (first, last) = float(part["duration"]), part.get("observed", EVERYWHERE)
        begin, end = found.get(duration, EVERYWHERE)
        found[duration] = max(begin, first), min(end, last)
    return found


@dataclass(frozen=True)
class Batch:
    """Clips side by side, all of one latent shape.

    Attributes:
        coefficients: H, (B, C, h, w, s) float32.
        tokens: (B, L, D) float32. mask: (B, L) bool.
        duration: T of each clip, (B,) float64, seconds. num_frames: N of each, (B,) int64.
        clip_ids: their names.
    """

    coefficients: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor
    duration: torch.Tensor
    num_frames: torch.Tensor
    clip_ids: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents."""
        return tuple(self.coefficients.shape[1:4])

    def part(self, positions: range) -> "Batch":
        """The clips at these consecutive positions."""
        chosen = slice(positions.start, positions.stop)
        return replace(self._each(lambda tensor: tensor[chosen]), clip_ids=self.clip_ids[chosen])

    def to(self, device: torch.device) -> "Batch":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        return self._each(torch.Tensor.pin_memory)

    def not_finite(self) -> list[str]:
        """The clips whose coefficients or caption embedding hold a NaN or an infinity."""
        fine = self.coefficients.isfinite().flatten(1).all(1) & self.tokens.isfinite().flatten(1).all(1)
        return [name for name, each in zip(self.clip_ids, fine.tolist(), strict=True) if not each]

    def _each(self, change: Any) -> "Batch":
        tensors = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "clip_ids"}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})
