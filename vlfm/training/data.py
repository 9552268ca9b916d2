"""Coefficient shards → batches, in an order that depends only on the seed and on how many samples were seen."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

from vlfm.artifacts import MEMBERS, read_json
from vlfm.coefficients.shards import ClipCoefficients, decode
from vlfm.errors import VLFMError

SHUFFLE_BUFFER = 1000
ALIKE = ("fingerprint", "shape", "caption_channels")  # the same in all shards that belong together


@dataclass(frozen=True)
class Moments:
    """What the shards say about themselves without being read.

    Attributes:
        clips: how many there are.
        mean_square: (s,) float64, E[H_n²] over all clips and positions.
        caption_mean_square: E[e²] over the entries of all captions' token embeddings.
        shape: (C, h, w) of a latent.
        caption_channels: width of a caption's token embedding.
        fingerprint: of the projection that made them, the same in every shard.
    """

    clips: int
    mean_square: torch.Tensor
    caption_mean_square: float
    shape: tuple[int, int, int]
    caption_channels: int
    fingerprint: str


def read_moments(paths: list[Path]) -> Moments:
    """Combine the moments of all shards.

    Raises:
        VLFMError: if there is no shard, or shards were made with different settings; names two that differ.
    """
    if not paths:
        raise VLFMError("there is no coefficient shard to train on")
    parts = {path: read_json(path) for path in paths}
    first, reference = next(iter(parts.items()))
    for path, part in parts.items():
        if missing := {"clips", "mean_square", "caption_mean_square", *ALIKE} - part.keys():
            raise VLFMError(
                f"{path} lacks {', '.join(sorted(missing))}: another version wrote it; remove it and run "
                "`snakemake` again"
            )
        for key in ALIKE:
            if part[key] != reference[key]:
                raise VLFMError(
                    f"{path} and {first} do not belong together: their {key} differ ({part[key]} and "
                    f"{reference[key]}); remove the older and run `snakemake` again"
                )
    clips = sum(part["clips"] for part in parts.values())

    def mean(key: str):
        return sum(part["clips"] * np.array(part[key]) for part in parts.values()) / clips

    return Moments(
        clips,
        torch.from_numpy(mean("mean_square")),
        float(mean("caption_mean_square")),
        tuple(reference["shape"]),
        reference["caption_channels"],
        reference["fingerprint"],
    )


@dataclass(frozen=True)
class Batch:
    """Clips side by side: coefficients (B, C, h, w, s), tokens (B, L, D), mask (B, L)."""

    coefficients: torch.Tensor
    tokens: torch.Tensor
    mask: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(value.to(device, non_blocking=True) for value in vars(self).values()))


def batches(shards: list[Path], clips: int, batch_size: int, seed: int, seen: int = 0) -> Iterator[Batch]:
    """Batches without end, starting after `seen` samples.

    An epoch is every clip once: shards in an order drawn from (seed, epoch), clips shuffled within a buffer of
    1000. Batches run on across epochs. Two runs with the same arguments give the same batches; a run started
    at `seen` gives what the first would give from there on.
    """
    stream = _samples(shards, clips, seed, seen)
    while True:
        chosen = [next(stream) for _ in range(batch_size)]
        yield Batch(
            torch.from_numpy(np.stack([clip.coefficients for clip in chosen])),
            torch.from_numpy(np.stack([clip.tokens for clip in chosen])),
            torch.from_numpy(np.stack([clip.mask for clip in chosen])),
        )


def _samples(shards: list[Path], clips: int, seed: int, seen: int) -> Iterator[ClipCoefficients]:
    epoch, skip = divmod(seen, clips)
    while True:
        order = np.random.default_rng([seed, epoch]).permutation(len(shards))
        pipeline = webdataset.DataPipeline(
            webdataset.SimpleShardList([str(shards[index]) for index in order]),
            webdataset.tarfile_to_samples(handler=webdataset.reraise_exception),
            # webdataset's own decoders would unpickle some members; these accept npy and json alone.
            webdataset.map(_decode),
            webdataset.detshuffle(bufsize=SHUFFLE_BUFFER, initial=SHUFFLE_BUFFER, seed=seed, epoch=epoch - 1),
        )
        count = 0
        for clip in pipeline:
            count += 1
            if skip:
                skip -= 1
            else:
                yield clip
        if count != clips:
            raise VLFMError(
                f"the shards hold {count} clips, their moments say {clips}: a shard is damaged or was replaced; "
                "remove it and run `snakemake` again"
            )
        epoch += 1


def _decode(sample: dict[str, Any]) -> ClipCoefficients:
    where = str(sample.get("__url__", "shard"))
    for name in sample:
        if not name.startswith("__") and name.rsplit(".", 1)[-1] not in MEMBERS:
            raise VLFMError(f"{where}: member {sample['__key__']}.{name} is not one of {', '.join(MEMBERS)}")
    return decode(sample, where)
