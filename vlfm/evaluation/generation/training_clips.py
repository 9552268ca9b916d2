"""A run's training clips, as generated ones are compared with them."""

from pathlib import Path

import numpy as np
import torch

from vlfm.clips.shards import read_clips
from vlfm.evaluation.generation.copying import TrainingClips, pixel_vectors
from vlfm.evaluation.generation.prompts import Sample
from vlfm.progress import with_progress
from vlfm.storage import unfinished


def training_clips(sample: Sample, partial: Path | None = None) -> TrainingClips | None:
    """The training clips as pixels, and what is usual between them; None with fewer than two.

    Args:
        partial: a folder where what was read of each shard is kept, for a killed job to go on with.
    """
    vectors, captions = [], []
    for shard, ids in with_progress(sample.training.items(), "training clips"):
        path = partial and partial / f"training-{shard}.safetensors"
        if path and path.exists():
            pixels = unfinished.load(path, "pixels")["pixels"].numpy()
        else:
            clips = read_clips(sample.run.results / "clips" / f"{shard}.tar", set(ids))
            pixels = np.concatenate([pixel_vectors([clip.evenly()], aligned=True) for clip in clips])
            if path:
                unfinished.save(path, {"pixels": torch.from_numpy(pixels)})
        vectors.append(pixels)
        store = sample.run.stores[shard]
        told = dict(zip(store.clip_ids, store.captions, strict=True))
        captions += [told[clip_id] for clip_id in ids]
    if len(captions) < 2:
        return None
    return TrainingClips.of(np.concatenate(vectors), captions, sample.run.config.seed)
