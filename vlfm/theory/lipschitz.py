"""Assumption C.8: how much the decoder stretches steps in latents, L0, bounded from below."""

import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.decoders import ddim
from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.embedded import EmbeddedDecoder
from vlfm.flow import theory
from vlfm.flow.projection import project, projection_matrix, reconstruct
from vlfm.theory.groups import ClipGroup, spread

FRAMES = 8  # that are measured, at most
# Frames at a time through the generator with gradients, whose every DDIM step stays in memory.
GRADIENT_FRAMES = 4
CLIMB = 6  # steps
SIZES = (0.01, 0.1, 0.5)  # of a step, ‖δ‖/‖u‖


def measure_lipschitz(
    config: configs.Config,
    groups: list[ClipGroup],
    predicted: list[Tensor],
    decoder: VisualDecoder,
) -> list[dict]:
    """Assumption C.8: quotients `||D(u+δ) − D(u)|| / ||δ||` at real frames; each is a lower bound of L0.

    map: `decoder`, latents u → frames, or `autoencoder`, its latents → frames. direction: `worst found` (climbed
    with gradients, where the decoder has them), `random`, `next frame`, `projection error` and `network error`.
    size: ‖δ‖/‖u‖. `grid` is true for the fixed sizes (`SIZES`), false for the step's own size.
    """
    frames = spread(groups, FRAMES)
    points = torch.stack([groups[g].latents[c, n] for g, c, n in frames]).float()
    lengths = points.flatten(1).norm(dim=1)
    generator = torch.Generator().manual_seed(config.seed)
    random = torch.randn(points.shape, generator=generator)
    errors = _path_errors(config, groups, predicted)
    directions = {
        "random": random,
        "next frame": torch.stack([groups[g].latents[c, n + 1] - groups[g].latents[c, n] for g, c, n in frames]),
        "projection error": torch.stack([errors[g][0][c, n] for g, c, n in frames]),
        "network error": torch.stack([errors[g][1][c, n] for g, c, n in frames]),
    }
    captions = [groups[g].captions[c] for g, c, _ in frames]

    def generate(latents: Tensor) -> Tensor:
        return decoder.generate(latents, captions).cpu()

    differentiable = with_gradients(decoder)
    if differentiable is not None:
        climbed = [
            theory.steepest_step(
                differentiable,
                part.to(_device(decoder)),
                SIZES[0] * (_unit(start) * _shaped(length, start)).to(_device(decoder)),
                CLIMB,
            )[0].cpu()
            for part, start, length in zip(
                points.split(GRADIENT_FRAMES),
                random.split(GRADIENT_FRAMES),
                lengths.split(GRADIENT_FRAMES),
                strict=True,
            )
        ]
        directions = {"worst found": torch.cat(climbed), **directions}
    base = generate(points)
    rows = []

    def add(map_: str, direction: str, sizes: Tensor, quotients: Tensor, grid: bool) -> None:
        for (g, c, n), size, quotient in zip(frames, sizes.tolist(), quotients.tolist(), strict=True):
            rows.append(
                {
                    "map": map_,
                    "direction": direction,
                    "size": size,
                    "grid": grid,
                    "quotient": quotient,
                    "clip_id": groups[g].clip_ids[c],
                    "frame": n + 1,
                    "note": "" if np.isfinite(quotient) else "there is no error in this direction",
                }
            )

    for direction, steps in directions.items():
        own = steps.float().flatten(1).norm(dim=1) / lengths
        scales = [(torch.full_like(own, size), True) for size in SIZES]
        if direction in ("next frame", "projection error", "network error"):
            scales.append((own, False))
        for sizes, grid in scales:
            # An error that is nothing but rounding has no direction.
            sizes = torch.where(own > 1e-6, sizes, torch.full_like(sizes, torch.nan))
            delta = (_unit(steps.float()) * _shaped(sizes * lengths, steps)).nan_to_num()
            quotients = theory.lipschitz_quotient(generate, points, delta, base)
            add("decoder", direction, sizes, quotients, grid)
    encoded = torch.stack([groups[g].autoencoder[c, n] for g, c, n in frames]).float()

    def decode(latents: Tensor) -> Tensor:
        return decoder.decode(latents).cpu()

    base = decode(encoded)
    for size in SIZES:
        delta = size * _unit(random) * _shaped(encoded.flatten(1).norm(dim=1), random)
        quotients = theory.lipschitz_quotient(decode, encoded, delta, base)
        add("autoencoder", "random", torch.full_like(lengths, size), quotients, True)
    return rows


def largest_quotient(rows: list[dict]) -> float:
    """The largest quotient of the decoder, over all frames, directions and sizes: a lower bound of L0."""
    return max(row["quotient"] for row in rows if row["map"] == "decoder" and np.isfinite(row["quotient"]))


def with_gradients(decoder: VisualDecoder) -> Callable[[Tensor], Tensor] | None:
    """`decoder.generate` such that autograd goes through it, or None for a decoder where it cannot."""
    if not isinstance(decoder, EmbeddedDecoder):
        return None
    # `generate` of a decoder runs without gradients: this is the same walk, unwrapped.
    walk = inspect.unwrap(ddim.generate)

    def generate(latents: Tensor) -> Tensor:
        start = walk(decoder.predict_noise, latents, decoder.scheduler, decoder.steps, decoder.depth)
        return decoder.autoencoder.decode(start).clamp(-1, 1)

    return generate


def _path_errors(
    config: configs.Config, groups: list[ClipGroup], predicted: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Per group `H g − u` and `(Ĥ − H) g` at the frames, (B, N, C, h, w) each."""
    errors = []
    for group, guess in zip(groups, predicted, strict=True):
        basis = clip_basis(config, config.clips.longest)
        g = basis.evaluate(group.times)[None]
        weights = projection_matrix(group.times, basis)
        mean = reconstruct(project(group.latents, weights), g)
        errors.append((mean - group.latents, reconstruct(guess, g) - mean))
    return errors


def _unit(steps: Tensor) -> Tensor:
    return steps / _shaped(steps.flatten(1).norm(dim=1).clamp_min(1e-30), steps)


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _device(decoder: VisualDecoder) -> torch.device:
    return getattr(decoder, "device", torch.device("cpu"))
