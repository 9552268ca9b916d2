"""Where clips of captions come from: the model, and what it is compared with.

A source makes the frames of videos, uint8 (N, H, W, 3) each, in the order asked for. All that are asked for at once are
alike (`Prompt.kind`) and, where they are read from shards, best of one shard.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlfm.clips.shards import DecodedClip, read_clips
from vlfm.coefficients.shards import read_shard
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.prompts import Place, Prompt
from vlfm.finished_run import Run
from vlfm.flow.projection import reconstruct
from vlfm.frames import to_uint8
from vlfm.model.flow_model import FlowModel
from vlfm.model.frame_times import rate_times
from vlfm.model.noise import caption_noise


@dataclass(frozen=True, eq=False)
class Video:
    """One video that is asked for.

    Attributes:
        prompt: what it is to show.
        number: which of the prompt's videos it is, from 0: the noise of what is generated.
        place: the clip that it is, where it is one of the run's.
    """

    prompt: Prompt
    number: int
    place: Place | None = None


Source = Callable[[Sequence[Video]], list[np.ndarray]]


def generated(
    run: Run, model: FlowModel | None = None, steps: int | None = None, solver_steps: int | None = None
) -> Source:
    """What a model (by default the run's) makes of captions, with the settings of `evaluation`.

    Noise is a function of the caption, the number and the configuration's seed alone.

    Args:
        steps: of sampling, for the head `coefficients`; by default `evaluation.steps`.
        solver_steps: between two frames, for the head `velocity`; by default `evaluation.solver_steps`.
    """
    model, settings = model or run.model, run.config.evaluation

    def make(videos: Sequence[Video]) -> list[np.ndarray]:
        store = videos[0].prompt.store
        times = model.hold(torch.from_numpy(rate_times(store.fps, store.duration)), store.duration)
        latents = model.latents(
            *conditions(videos, run.config.seed, store.shape),
            times,
            steps or settings.steps,
            duration=store.duration,
            guidance=settings.guidance,
            solver=settings.solver,
            solver_steps=solver_steps or settings.solver_steps,
        )
        return drawn(run, latents, videos)

    return make


def conditions(
    videos: Sequence[Video], seed: int, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a network makes videos of: their captions' tokens (B, L, D) and mask (B, L), and their noise (B, *shape)."""
    return (
        torch.from_numpy(np.stack([video.prompt.tokens for video in videos])),
        torch.from_numpy(np.stack([video.prompt.mask for video in videos])),
        torch.stack([caption_noise(video.prompt.caption, video.number, seed, shape) for video in videos]),
    )


def drawn(run: Run, latents: torch.Tensor, videos: Sequence[Video]) -> list[np.ndarray]:
    """The frames of each video, uint8 (K, H, W, 3), from its latents: (B, K, C, h, w)."""
    captions = [video.prompt.caption for video in videos for _ in range(latents.shape[1])]
    frames = to_uint8(run.decoder.generate(latents.flatten(0, 1), captions))
    return list(frames.reshape(*latents.shape[:2], *frames.shape[1:]))


def true(run: Run) -> Source:
    """Clips of the run as they are."""

    def make(videos: Sequence[Video]) -> list[np.ndarray]:
        found = {
            (shard, clip.clip_id): clip.evenly()
            for shard, ids in _by_shard(video.place for video in videos).items()
            for clip in _clips(run, shard, ids)
        }
        return [found[video.place] for video in videos]

    return make


def decoded(run: Run) -> Source:
    """Clips of the run from their latents: through the decoder, and inverted where the latents are."""

    def make(videos: Sequence[Video]) -> list[np.ndarray]:
        clips = [run.stores[shard][clip_id] for shard, clip_id in (video.place for video in videos)]
        return [to_uint8(run.coder(clip).generate(torch.from_numpy(clip.latents))) for clip in clips]

    return make


def projected(run: Run) -> Source:
    """Clips of the run from their coefficients: the best that a network can do."""

    def make(videos: Sequence[Video]) -> list[np.ndarray]:
        found = {}
        for shard, ids in _by_shard(video.place for video in videos).items():
            clips = read_shard(run.results / "coefficients" / f"{shard}.tar", ids)
            found |= {(shard, clip.clip_id): clip for clip in clips}
        frames = []
        for video in videos:
            if video.place not in found:
                raise VLFMError(
                    f"clip {video.place[1]} has latents but no coefficients in shard {video.place[0]}; project it again"
                )
            clip = found[video.place]
            basis = run.model.path(clip.duration).basis.evaluate(torch.from_numpy(clip.times))
            latents = reconstruct(torch.from_numpy(clip.coefficients)[None], basis[None])[0]
            coder = run.coder(run.stores[video.place[0]][clip.clip_id])
            frames.append(to_uint8(coder.generate(latents.float())))
        return frames

    return make


def average(run: Run) -> Source:
    """The mean, pixel by pixel, of the training clips of each prompt's nearest training caption."""

    def make(videos: Sequence[Video]) -> list[np.ndarray]:
        # Several prompts may have the same nearest caption.
        wanted: dict[Place, list[int]] = {}
        for index, video in enumerate(videos):
            for place in video.prompt.nearest:
                wanted.setdefault(place, []).append(index)
        sums: list[Any] = [0.0] * len(videos)
        for shard, ids in _by_shard(wanted).items():
            for clip in _clips(run, shard, ids):
                for index in wanted[shard, clip.clip_id]:
                    sums[index] = sums[index] + clip.evenly().astype(np.float32)
        return [
            (total / len(video.prompt.nearest)).round().astype(np.uint8)
            for video, total in zip(videos, sums, strict=True)
        ]

    return make


def _by_shard(places: Iterable[Place]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for shard, clip_id in places:
        found.setdefault(shard, set()).add(clip_id)
    return found


def _clips(run: Run, shard: str, ids: set[str]) -> Iterator[DecodedClip]:
    """The clips of a shard with these ids.

    Raises:
        VLFMError: after the last one, if a clip that has latents was not decoded.
    """
    path, found = run.results / "clips" / f"{shard}.tar", set()
    for clip in read_clips(path, ids):
        found.add(clip.clip_id)
        yield clip
    if missing := ids - found:
        raise VLFMError(f"clip {min(missing)} has latents but no frames in {path}; decode it again")
