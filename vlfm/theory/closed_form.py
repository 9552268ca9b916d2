"""Theorem 4.1: the objective at the closed-form field and around it."""

from collections.abc import Callable

import torch
from torch import Tensor

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.flow import theory
from vlfm.flow.projection import project, projection_matrix
from vlfm.flow.schedules import SCHEDULES
from vlfm.theory.groups import ClipGroup
from vlfm.theory.predictions import path_of

CLIPS = 8  # that are measured, at most
PERTURBATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def measure_closed_form(
    config: configs.Config, groups: list[ClipGroup], predicted: list[Tensor], scale: float
) -> list[dict]:
    """Theorem 4.1: the objective (Definition D.9) at the closed-form field, at that of `H + ΔH`, at the network's.

    predicted: Ĥ of each group's clips, in latent units. scale: the RMS of latents the flow runs in units of.
    `perturbation`: `||ΔH|| / ||H||`. `loss`: per second squared, in those units. `relative_loss`: divided by the
    mean square of the target.
    """
    rows = []
    generator = torch.Generator().manual_seed(config.seed)
    draws = []
    left = CLIPS
    for group, guess in zip(groups, predicted, strict=True):
        latents = group.latents[:left] / scale
        left -= len(latents)
        if len(latents):
            coefficients = project(latents, projection_matrix(group.times, clip_basis(config, config.clips.longest)))
            draws.append(
                (
                    coefficients,
                    _randn(coefficients[..., 0].shape, generator),
                    torch.rand(len(latents), 32, generator=generator, dtype=torch.float64) * config.clips.longest,
                    _randn(coefficients.shape, generator),
                    guess[: len(latents)] / scale - coefficients,
                )
            )
    for name in SCHEDULES:
        path = path_of(config, config.flow.order, name)

        def row(field: str, change: Callable[[tuple], Tensor | float], path=path, name=name) -> dict:
            loss = energy = moved = size = clips = 0.0
            for draw in draws:
                coefficients, z, t = draw[:3]
                step = change(draw)
                count = len(coefficients)
                loss += count * float(theory.closed_form_loss(path, coefficients, z, t, step))
                energy += count * float(path.sample(coefficients, z, t).velocity.square().mean())
                moved += float(torch.as_tensor(step).square().sum())
                size += float(coefficients.square().sum())
                clips += count
            return {
                "schedule": name,
                "field": field,
                "perturbation": (moved / size) ** 0.5,
                "loss": loss / clips,
                "relative_loss": loss / energy,
                "clips": int(clips),
            }

        rows.append(row("closed form", lambda draw: 0.0))
        for size in PERTURBATIONS:
            rows.append(row("perturbed", lambda draw, size=size: size * draw[3] * draw[0].norm() / draw[3].norm()))
        rows.append(row("network", lambda draw: draw[4]))
    return rows


def _randn(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)
