"""What a run is asked to show: some captions of a split, with the true clips that they are compared with."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch.nn import functional

from vlfm.captions.encoders import CaptionEmbeddings
from vlfm.captions.pooling import mean_embedding
from vlfm.evaluation.generation.fit_judges import one_token
from vlfm.evaluation.generation.subset import enough_shards, sampled_clips
from vlfm.finished_run import Run
from vlfm.latents.store import LatentStore
from vlfm.splits import TRAIN
from vlfm.spread import spread

NEAREST = 64  # training clips of the nearest caption, at most
Place = tuple[str, str]  # a clip's shard and its id


@dataclass(frozen=True, eq=False)
class Prompt:
    """A caption, and what clips of it are like.

    Attributes:
        caption: the text.
        tokens, mask: its embedding, (L, D) float32 and (L,) bool.
        store: of one of its clips: how long they are, and how large.
        true: its true clips, all of that length and size.
        nearest: training clips of the training caption that is nearest to it, the same where it is one itself; of that
            length and size. None where there are no such.
    """

    caption: str
    tokens: np.ndarray
    mask: np.ndarray
    store: LatentStore
    true: tuple[Place, ...]
    nearest: tuple[Place, ...] = ()

    @property
    def kind(self) -> tuple[float, int, tuple[int, ...], int, int]:
        """Clips alike in this lie in one batch: seconds, frames, latents (C, h, w) of one, height, width in pixels."""
        return _kind(self.store)


class Sample:
    """Some of a run's clips, of a few thousand at most of each split, and its captions.

    Args:
        run: a finished run with latents.
    """

    def __init__(self, run: Run):
        self.run = run

    @cached_property
    def training(self) -> dict[str, list[str]]:
        """Shard → ids of training clips that generated ones are compared with."""
        return self._clips(TRAIN)

    def prompts(self, split: str, captions: int, each: int) -> list[Prompt]:
        """At most so many captions of a split, spread over it, each with at most so many true clips; none where the
        split has no clip."""
        told = self._by_caption(self._clips(split))
        chosen = spread(list(told), captions)
        if not chosen:
            return []
        embeddings = [self._embedding(told[caption][0]) for caption in chosen]
        near = self._nearest(chosen, embeddings)
        prompts = []
        for caption, (tokens, mask), own in zip(chosen, embeddings, near, strict=True):
            store = self.run.stores[told[caption][0][0]]
            true, nearest = (
                tuple(spread([place for place in places if _kind(self.run.stores[place[0]]) == _kind(store)], limit))
                for places, limit in ((told[caption], each), (own, NEAREST))
            )
            prompts.append(Prompt(caption, tokens, mask, store, true, nearest))
        return prompts

    def _clips(self, split: str) -> dict[str, list[str]]:
        stores = {shard: store for shard, store in self.run.stores.items() if self.run.splits[shard] == split}
        some = enough_shards({shard: len(store) for shard, store in stores.items()})
        return sampled_clips({shard: stores[shard].clip_ids for shard in some})

    def _by_caption(self, clips: Mapping[str, Sequence[str]]) -> dict[str, list[Place]]:
        """Caption → its clips, captions and clips in the order of the shards."""
        told: dict[str, list[Place]] = {}
        for shard, ids in clips.items():
            captions = dict(zip(self.run.stores[shard].clip_ids, self.run.stores[shard].captions, strict=True))
            for clip_id in ids:
                told.setdefault(captions[clip_id], []).append((shard, clip_id))
        return told

    def _embedding(self, place: Place) -> tuple[np.ndarray, np.ndarray]:
        return self.run.stores[place[0]].caption_of(place[1])

    @cached_property
    def _training_captions(self) -> tuple[dict[str, list[Place]], torch.Tensor]:
        """The training captions with their clips, and the means of their tokens (U, D)."""
        told = self._by_caption(self.training)
        return told, _means(self._embedding(places[0]) for places in told.values())

    def _nearest(
        self, captions: Sequence[str], embeddings: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> list[list[Place]]:
        """The clips of each caption's nearest training caption: by the cosine, what all have in common taken off."""
        told, theirs = self._training_captions
        if not told:
            return [[] for _ in captions]
        common = theirs.mean(0)
        likeness = functional.normalize(_means(embeddings) - common, dim=-1) @ functional.normalize(theirs - common).T
        names = list(told)
        return [
            told[caption] if caption in told else told[names[int(place)]]
            for caption, place in zip(captions, likeness.argmax(1), strict=True)
        ]


def embeddings_of(prompts: Sequence[Prompt]) -> CaptionEmbeddings:
    """The prompts' captions as judges read them."""
    tokens, mask = (np.stack([getattr(prompt, name) for prompt in prompts]) for name in ("tokens", "mask"))
    return one_token(CaptionEmbeddings(torch.from_numpy(tokens), torch.from_numpy(mask)))


def _means(embeddings: Iterable[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
    return torch.stack(
        [mean_embedding(torch.from_numpy(tokens), torch.from_numpy(mask)) for tokens, mask in embeddings]
    )


def _kind(store: LatentStore) -> tuple[float, int, tuple[int, ...], int, int]:
    return store.duration, store.num_frames, store.shape, store.height, store.width
