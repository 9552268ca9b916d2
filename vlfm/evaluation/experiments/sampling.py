"""Clips made of their captions by a variant's network, in batches of clips that are alike."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch

from vlfm import config as configs
from vlfm.evaluation.experiments.all_frames import sample
from vlfm.evaluation.experiments.variants import ALL_FRAMES
from vlfm.evaluation.render import clip_noise, rate_times
from vlfm.latents.decoder import VisualDecoder
from vlfm.latents.frames import to_uint8
from vlfm.latents.store import ClipLatents
from vlfm.model.flow_model import FlowModel

BATCH = 64  # clips at once


def sampling_steps(config: configs.Config, variant: str) -> list[int | None]:
    """The steps of sampling that a variant is compared at.

    `direct` has none: it is evaluated once a frame. `velocity` passes through every frame, so that its steps are those
    in a frame interval; more than `evaluation.solver_steps` of them cost hundreds of evaluations and are left out.
    """
    if variant == "direct":
        return [None]
    limit = config.evaluation.solver_steps if variant == "velocity" else max(config.experiments.baseline_steps)
    chosen = [steps for steps in sorted(set(config.experiments.baseline_steps)) if steps <= limit]
    return chosen or [limit]


def made(
    config: configs.Config,
    model: FlowModel,
    decoder: VisualDecoder,
    clips: Sequence[ClipLatents],
    variant: str,
    steps: int | None,
) -> list[np.ndarray]:
    """What a model makes of the captions of clips: frames uint8 (N, H, W, 3) of each, at the clips' own rate.

    Guidance and solver are those of `evaluation`; the noise of a clip depends on it and on `seed` alone. Afterwards
    `model.evaluations` says how often the network was evaluated for a clip.

    Args:
        steps: of sampling; None for the head `direct`.
    """
    found: dict[str, np.ndarray] = {}
    for batch in _alike(clips):
        latents = _latents(config, model, batch, variant, steps)
        captions = [clip.caption for clip in batch for _ in range(latents.shape[1])]
        frames = to_uint8(decoder.generate(latents.flatten(0, 1), captions).cpu())
        found |= zip([clip.clip_id for clip in batch], frames.reshape(len(batch), -1, *frames.shape[1:]), strict=True)
    return [found[clip.clip_id] for clip in clips]


def _alike(clips: Sequence[ClipLatents]) -> Iterator[list[ClipLatents]]:
    """Batches of clips of one length and one size."""
    for _, members in groupby(sorted(clips, key=_kind), key=_kind):
        members = list(members)
        for start in range(0, len(members), BATCH):
            yield members[start : start + BATCH]


def _kind(clip: ClipLatents) -> tuple:
    return clip.duration, clip.latents.shape


def _latents(
    config: configs.Config, model: FlowModel, clips: Sequence[ClipLatents], variant: str, steps: int | None
) -> torch.Tensor:
    """(B, N, C, h, w) for B clips that are alike."""
    settings, duration = config.evaluation, clips[0].duration
    count, *shape = clips[0].latents.shape
    if variant == ALL_FRAMES:
        shape = [count * shape[0], *shape[1:]]
    tokens = torch.from_numpy(np.stack([clip.tokens for clip in clips]))
    mask = torch.from_numpy(np.stack([clip.mask for clip in clips]))
    noise = torch.stack([clip_noise(clip.clip_id, config.seed, tuple(shape)) for clip in clips])
    if variant == ALL_FRAMES:
        return sample(model, tokens, mask, noise, steps, settings.guidance).unflatten(1, (count, -1))
    return model.latents(
        tokens,
        mask,
        noise,
        model.hold(torch.from_numpy(rate_times(config.clips.fps, duration)), duration),
        steps or 1,
        duration=duration,
        guidance=settings.guidance,
        solver=settings.solver,
        solver_steps=steps or settings.solver_steps,
    )
