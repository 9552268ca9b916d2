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


def round_trip_and_loss(
    decoder: VisualDecoder, clip: DecodedClip, stored: ClipLatents, projected: ClipCoefficients, basis: Basis
) -> tuple[float, float]:
    """A clip's round trip, PSNR in dB at its own frames, and the dB that the path on `basis` costs beside it.

    A round trip that inversion did not measure (`inversion.check`) is measured here.
    """
    null_text = None if stored.null_text is None else torch.from_numpy(stored.null_text)

    def score(latents: torch.Tensor) -> float:
        frames = decoder.generate(latents, [clip.caption] * len(latents), null_text).cpu()
        return float(psnr(frames, to_tensor(clip.frames)).mean())

    values = basis.evaluate(torch.from_numpy(projected.times))
    on_path = reconstruct(torch.from_numpy(projected.coefficients)[None], values[None])[0]
    round_trip = score(torch.from_numpy(stored.latents)) if math.isnan(stored.round_trip) else stored.round_trip
    return round_trip, round_trip - score(on_path)


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
