"""Batches for the steps of a run, read ahead by other processes.

The sampler decides, the workers only read: what a step gets does not depend on how many read for it.
"""

import collections
import contextlib
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vlfm.coefficients.shards import ClipCoefficients
from vlfm.errors import VLFMError
from vlfm.training.data import Batch, Moments
from vlfm.training.reader import ShardReader, open_shard
from vlfm.training.sampler import GROUP, Place, StepOrder

AHEAD = 4  # parts of a batch a worker holds ready


class Clips(Dataset):
    """The clips of coefficient shards, by (shard, number in the shard).

    An error is returned, not raised: a worker's exception would arrive as a traceback.
    """

    def __init__(self, shards: Sequence[Path], moments: Moments):
        self._shards, self._moments = list(shards), moments
        self._open: collections.OrderedDict[int, ShardReader] = collections.OrderedDict()
        # Two groups of each bucket: a batch may lie across a boundary.
        self._most_open = 2 * GROUP * len(moments.shapes)

    def __getitems__(self, places: Sequence[Place]) -> Batch | VLFMError:
        try:
            return self._batch(places)
        except VLFMError as error:
            return error

    def close(self) -> None:
        """Close the shards that are open in this process."""
        while self._open:
            self._open.popitem()[1].close()

    def _batch(self, places: Sequence[Place]) -> Batch:
        clips = [self._read(shard, clip) for shard, clip in places]
        about = [self._moments.shards[shard] for shard, _ in places]
        return Batch(
            torch.from_numpy(np.stack([clip.coefficients for clip in clips])),
            torch.from_numpy(np.stack([clip.tokens for clip in clips])),
            torch.from_numpy(np.stack([clip.mask for clip in clips])),
            torch.tensor([shard.duration for shard in about], dtype=torch.float64),
            torch.tensor([shard.num_frames for shard in about]),
            tuple(clip.clip_id for clip in clips),
        )

    def _read(self, shard: int, index: int) -> ClipCoefficients:
        clip = self._reader(shard)[index]
        moments = self._moments
        expected = (*moments.shards[shard].shape, moments.order)
        if clip.coefficients.shape != expected or clip.tokens.shape[1:] != (moments.caption_channels,):
            raise VLFMError(
                f"{self._shards[shard]}: clip {clip.clip_id} has coefficients {clip.coefficients.shape} and captions "
                f"{clip.tokens.shape}, its moments say {expected} and (…, {moments.caption_channels}): it was made by "
                "another projection or decoder; remove the shard and run its rule again"
            )
        return clip

    def _reader(self, shard: int) -> ShardReader:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        reader = open_shard(self._shards[shard], self._moments.shards[shard].clips)
        self._open[shard] = reader
        if len(self._open) > self._most_open:
            self._open.popitem(last=False)[1].close()
        return reader


class _Sampler:
    """The places of each part that this process takes, step after step."""

    def __init__(self, order: StepOrder, parts: Sequence[range], start: int, stop: int):
        self._order, self._parts, self._start, self._stop = order, parts, start, stop

    def __iter__(self) -> Iterator[list[Place]]:
        for places in self._order.steps(self._start, self._stop):
            for part in self._parts:
                yield [places[position] for position in part]


def batches(
    shards: Sequence[Path],
    moments: Moments,
    batch_size: int,
    seed: int,
    *,
    parts: Sequence[range] | None = None,
    start: int = 0,
    stop: int = 2**40,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The batches of steps `start` … `stop` − 1, part by part; close it, and the workers end.

    Args:
        moments: of `shards`, in the same order.
        batch_size: clips a step, over all processes.
        parts: the positions in a step's batch of each part that this process takes; default all in one.
        workers: processes that read ahead; 0 reads when asked.
        pin_memory: for copies to a GPU that nothing waits for.

    Raises:
        VLFMError: when a shard cannot be read or is not what its moments say; names it.
    """
    order = StepOrder(moments.shards, batch_size, seed)
    clips = Clips(shards, moments)
    loader = DataLoader(
        clips,
        batch_sampler=_Sampler(order, parts or [range(batch_size)], start, stop),
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_trainer,
        generator=torch.Generator(),  # the loader draws a number for its workers; not from the trainer's
    )
    with contextlib.closing(clips), contextlib.closing(_iterate(loader)) as source:
        yield from source


def _iterate(loader: DataLoader) -> Iterator[Batch]:
    try:
        for batch in loader:
            if isinstance(batch, VLFMError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise VLFMError(
            f"a process that reads shards died ({error}); if memory or /dev/shm is short, lower training.workers "
            "(0 reads in the training process), then run the rule again"
        ) from error


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A signal to the whole process group asks the trainer to save and stop; it needs its readers until then.

    They end when it does: torch's workers watch their parent.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
