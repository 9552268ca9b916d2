"""Theorem 5.3: the four errors of a rendered latent, their sum, and what it bounds."""

import torch
from torch import Tensor

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.decoders.base import VisualDecoder
from vlfm.flow import theory
from vlfm.flow.projection import project, projection_matrix, reconstruct
from vlfm.model.noise import clip_noise
from vlfm.theory.groups import ClipGroup, spread
from vlfm.theory.predictions import path_of

PICTURE_CLIPS = 3  # that are decoded, at most


def measure_budget(
    config: configs.Config,
    groups: list[ClipGroup],
    predicted: list[Tensor],
    scale: float,
    sparse_order: int,
    decoder: VisualDecoder,
    largest_quotient: float,
    pictures: int = PICTURE_CLIPS,
) -> list[dict]:
    """Theorem 5.3 frame by frame: ε0 … ε3, their sum and the error they bound, as norms over a latent.

    observed: `every frame`, the run as it is, where ε3 is 0, since no truth is known between the frames; and
    `every 2nd frame`, a path of order `sparse_order` from half the frames, scored at all of them. The network saw
    every frame; its own error, cut to that order, is carried over to the sparse path.
    noise_paper: ε2 under the paper's schedule. picture: `||D(ψ) − D(u)||` on `pictures` clips, NaN on the
    others; picture_bound: `largest_quotient` times the sum. ψ is the readout `sample`, noise included.
    """
    rows = []
    duration = config.clips.longest
    shown = {(g, c) for g, c, _ in spread(groups, pictures)}

    def generate(group: ClipGroup, chosen: list[int], latents: Tensor) -> Tensor:
        """Latents (clips, K, C, h, w) of the chosen clips → frames (clips, K, 3, H, W)."""
        captions = [group.captions[c] for c in chosen for _ in range(latents.shape[1])]
        return decoder.generate(latents.flatten(0, 1).float(), captions).cpu().unflatten(0, latents.shape[:2])

    for g, (group, guess) in enumerate(zip(groups, predicted, strict=True)):
        count = len(group.times)
        shape = group.latents.shape[2:]
        z = scale * torch.stack([clip_noise(name, config.seed, shape) for name in group.clip_ids]).double()
        full = project(group.latents, projection_matrix(group.times, clip_basis(config, duration)))
        chosen = [c for c in range(len(group.clip_ids)) if (g, c) in shown]
        if chosen:
            truth = generate(group, chosen, group.latents[chosen])
        half = theory.every_nth(count, 2)
        for observed, mask, order in (
            ("every frame", torch.ones(count, dtype=torch.bool), config.flow.order),
            ("every 2nd frame", half, min(sparse_order, config.flow.order)),
        ):
            if observed == "every frame":
                prediction = guess
            else:
                weights = projection_matrix(group.times[mask], clip_basis(config, duration, order))
                prediction = project(group.latents[:, mask], weights) + (guess - full)[..., :order]
            path = path_of(config, order, config.flow.schedule)
            budget = theory.error_budget(group.latents, mask, path, z, prediction, group.times)
            paper = path_of(config, order, "paper").schedule.sigma(budget.times)[0]
            noise_paper = paper * z.flatten(1).norm(dim=1)[:, None]
            first = count - len(budget.times)
            picture = torch.full(budget.total.shape, torch.nan, dtype=torch.float64)
            if chosen:
                sigma = path.schedule.sigma(budget.times)[0]
                psi = reconstruct(prediction[chosen], path.basis.evaluate(budget.times)[None])
                psi = psi + sigma.reshape(1, -1, *(1,) * len(shape)) * z[chosen, None]
                made = generate(group, chosen, psi)
                picture[chosen] = (made - truth[:, first:]).double().flatten(2).norm(dim=2)
            for c, name in enumerate(group.clip_ids):
                for k, time in enumerate(budget.times.tolist()):
                    bound = float(budget.bound[c, k])
                    rows.append(
                        {
                            "observed": observed,
                            "order": order,
                            "clip_id": name,
                            "frame": first + k + 1,
                            "seconds": time,
                            "network": float(budget.network[c, k]),
                            "projection": float(budget.projection[c, k]),
                            "noise": float(budget.noise[c, k]),
                            "interpolation": float(budget.interpolation[c, k]),
                            "bound": bound,
                            "total": float(budget.total[c, k]),
                            "latent": float(group.latents[c, first + k].norm()),
                            "noise_paper": float(noise_paper[c, k]),
                            "picture": float(picture[c, k]),
                            "picture_bound": bound * largest_quotient if c in chosen else torch.nan,
                        }
                    )
    # The panels are drawn in the order of the rows.
    return sorted(rows, key=lambda row: row["observed"] != "every frame")
