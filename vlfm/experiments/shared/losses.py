"""What a clip's latents lose to the path, and what of the path a network has not learnt."""

import math
from pathlib import Path

import torch

from vlfm.clips.shards import DecodedClip
from vlfm.coefficients.shards import ClipCoefficients
from vlfm.decoders.base import VisualDecoder
from vlfm.evaluation.metrics import psnr
from vlfm.flow.bases import Basis
from vlfm.flow.projection import reconstruct
from vlfm.frames import to_tensor
from vlfm.latents.store import ClipLatents
from vlfm.model.flow_model import FlowModel
from vlfm.training.data import read_moments
from vlfm.training.loader import batches
from vlfm.training.objective import Objective

TIMES = 4  # at which each clip is asked for, on average


def projection_loss(
    decoder: VisualDecoder, clip: DecodedClip, stored: ClipLatents, projected: ClipCoefficients, basis: Basis
) -> float:
    """dB that the path on `basis` costs a clip beside its round trip, at its own frames."""
    values = basis.evaluate(torch.from_numpy(projected.times))
    latents = reconstruct(torch.from_numpy(projected.coefficients)[None], values[None])[0]
    null_text = None if stored.null_text is None else torch.from_numpy(stored.null_text)
    frames = decoder.generate(latents, [clip.caption] * len(latents), null_text).cpu()
    return stored.round_trip - float(psnr(frames, to_tensor(clip.frames)).mean())


@torch.no_grad()
def share_left(model: FlowModel, objective: Objective, shards: list[Path]) -> float:
    """The share of H's energy that a network with the head `coefficients` misses: `E |Ĥ − H|² / E |H|²`, at the times
    of training.

    Clips of one caption differ, so it does not reach 0 at the times at which the state does not tell them apart.

    Args:
        objective: that of the training, without caption dropout.
        shards: coefficient shards, of held-out clips for example, with their moments beside them.
    """
    moments, settings = read_moments([path.with_suffix(".json") for path in shards]), objective.config.training
    steps = math.ceil(TIMES * moments.clips / settings.batch_size)
    source = batches(shards, moments, settings.batch_size, objective.config.seed, stop=steps)
    scale, missed, whole = model.transformer.latent_scale, 0.0, 0.0
    for step, batch in enumerate(source):
        draw = objective.draw(step, range(settings.batch_size), batch.shape).to(model.device)
        batch = batch.to(model.device)
        missed += float(objective(model.transformer, batch, draw, scale).sum())
        whole += float((batch.coefficients / scale).square().sum(-1).flatten(1).mean(1).sum())
    return missed / whole
