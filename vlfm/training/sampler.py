"""Which clips a step takes: a function of the seed and the step alone.

Not of the number of processes, parts or reading workers, so that a run may go on with other numbers of them.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from vlfm.training.data import ShardMoments

# Clips are shuffled within this many shards at a time, so that few files are open and each is read while it is warm.
GROUP = 8
# Draws of a step's bucket come in blocks, so that a late step is reached without a call for each one before it.
BLOCK = 4096

Place = tuple[int, int]


class EndlessOrder:
    """The clips of some shards, epoch after epoch; every epoch is every clip once, in an order of its own.

    Shards are permuted by (seed, stream, epoch), then clips within groups of eight of them.

    Args:
        shards: their numbers. clips: how many each holds.
        seed, stream: name the order.
    """

    def __init__(self, shards: Sequence[int], clips: Sequence[int], seed: int, stream: int):
        self._shards, self._clips = np.asarray(shards), np.asarray(clips)
        self._key = (seed, 1, stream)
        self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)
        self._group = functools.lru_cache(maxsize=4)(self._draw_group)

    @property
    def clips(self) -> int:
        """Clips in an epoch."""
        return int(self._clips.sum())

    def __getitem__(self, sample: int) -> Place:
        """(shard, clip in the shard) of the sample of that number, 0, 1, 2, … without end."""
        epoch, offset = divmod(sample, self.clips)
        _, ends = self._epoch(epoch)
        group = int(np.searchsorted(ends, offset, side="right"))
        start = int(ends[group - 1]) if group else 0
        shards, clips = self._group(epoch, group)
        return int(shards[offset - start]), int(clips[offset - start])

    def _draw_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the shards, as indices, and where each group of them ends."""
        order = np.random.default_rng([*self._key, epoch]).permutation(len(self._shards))
        ends = np.add.reduceat(self._clips[order], np.arange(0, len(order), GROUP)).cumsum()
        return order, ends

    def _draw_group(self, epoch: int, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Shard and clip of each sample of a group."""
        members = self._epoch(epoch)[0][group * GROUP : (group + 1) * GROUP]
        shards = np.repeat(self._shards[members], self._clips[members])
        clips = np.concatenate([np.arange(count) for count in self._clips[members]])
        order = np.random.default_rng([*self._key, epoch, group]).permutation(len(shards))
        return shards[order], clips[order]


class StepOrder:
    """The clips of each step's batch, all of one latent shape.

    Shards of one shape make a bucket. Which bucket a step takes is drawn with a chance in proportion to its clips;
    each bucket has an endless order of its own.

    Args:
        shards: every shard's moments. batch_size: clips a step, over all processes.
    """

    def __init__(self, shards: Sequence[ShardMoments], batch_size: int, seed: int):
        self._batch_size, self._seed = batch_size, seed
        shapes = sorted({shard.shape for shard in shards})
        self._buckets = []
        for stream, shape in enumerate(shapes):
            members = [number for number, shard in enumerate(shards) if shard.shape == shape and shard.clips]
            self._buckets.append(EndlessOrder(members, [shards[number].clips for number in members], seed, stream))
        clips = np.array([bucket.clips for bucket in self._buckets])
        self._chances = clips / clips.sum()

    def steps(self, start: int, stop: int) -> Iterator[list[Place]]:
        """The places of the clips of steps `start` … `stop` − 1, `batch_size` each."""
        taken = np.zeros(len(self._buckets), dtype=np.int64)
        for block in range(start // BLOCK):
            taken += np.bincount(self._draws(block), minlength=len(taken))
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            draws = self._draws(block)
            first = max(start - block * BLOCK, 0)
            taken += np.bincount(draws[:first], minlength=len(taken))
            for bucket in draws[first : stop - block * BLOCK]:
                seen = int(taken[bucket]) * self._batch_size
                yield [self._buckets[bucket][seen + position] for position in range(self._batch_size)]
                taken[bucket] += 1

    def _draws(self, block: int) -> np.ndarray:
        """The buckets of the steps of a block."""
        if len(self._buckets) == 1:
            return np.zeros(BLOCK, dtype=np.int64)
        random = np.random.default_rng([self._seed, 2, block])
        return random.choice(len(self._buckets), size=BLOCK, p=self._chances)
