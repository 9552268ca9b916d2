"""The captions of the clips that a model was trained on, out of the shards: a bounded read, however many there are."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from vlfm.captions.pooling import mean_embedding
from vlfm.errors import VLFMError
from vlfm.model.training_captions import TrainingCaptions
from vlfm.training.data import Moments
from vlfm.training.reader import open_shard
from vlfm.training.sampler import Place

CLIPS = 10_000  # read at most, a caption of MiniLM's being 25 kB
SHARDS = 500  # opened at most: the headers of all members of a shard are read to find one


def training_captions(shards: Sequence[Path], moments: Moments, seed: int) -> TrainingCaptions:
    """The distinct captions of all clips, or of 10,000 spread evenly over 500 shards, which the seed draws.

    Args:
        moments: of `shards`, in the same order.

    Raises:
        VLFMError: when a shard cannot be read or is not what its moments say, or no embedding is finite.
    """
    places = list(_places([shard.clips for shard in moments.shards], seed))
    found: dict[str, torch.Tensor] = {}
    for shard, clips in groupby(places, key=lambda place: place[0]):
        with contextlib.closing(open_shard(shards[shard], moments.shards[shard].clips)) as reader:
            for _, clip in clips:
                about = reader.caption(clip)
                embedding = mean_embedding(torch.from_numpy(about.tokens), torch.from_numpy(about.mask)).half()
                if embedding.isfinite().all():
                    found.setdefault(about.caption, embedding)
    if not found:
        raise VLFMError("no clip has a caption with a finite embedding")
    return TrainingCaptions(tuple(found), torch.stack(list(found.values())), len(places) == moments.clips)


def _places(clips: Sequence[int], seed: int) -> Iterator[Place]:
    """The clips to read, in the order they lie in; `clips` is how many each shard holds."""
    random = np.random.default_rng([seed, 3])
    shards = _spread(len(clips), SHARDS, random)
    ends = np.cumsum([clips[shard] for shard in shards])
    for number in _spread(int(ends[-1]), CLIPS, random):
        index = int(np.searchsorted(ends, number, side="right"))
        yield int(shards[index]), int(number - (ends[index - 1] if index else 0))


def _spread(count: int, most: int, random: np.random.Generator) -> np.ndarray:
    """Up to `most` of the numbers 0 … `count` − 1, rising: one out of each of as many equal stretches."""
    bounds = np.arange(min(count, most) + 1) * count // min(count, most)
    return random.integers(bounds[:-1], bounds[1:])
