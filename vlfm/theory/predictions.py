"""What the run's network makes of the clips, and the path that it was trained on."""

import torch
from torch import Tensor

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.projection import project, projection_matrix
from vlfm.flow.schedules import make_schedule
from vlfm.model.flow_model import FlowModel
from vlfm.model.noise import clip_noise
from vlfm.theory.groups import ClipGroup


def predict_coefficients(config: configs.Config, groups: list[ClipGroup], model: FlowModel) -> list[Tensor]:
    """Ĥ of every clip from its caption, (B, C, h, w, s) a group: the path projected through what the model renders with
    the settings of `evaluation`."""
    settings, predicted = config.evaluation, []
    for group in groups:
        noise = torch.stack([clip_noise(name, config.seed, group.latents.shape[2:]) for name in group.clip_ids])
        rendered = [
            model.latents(
                tokens,
                mask,
                z,
                group.times,
                settings.steps,
                duration=config.clips.longest,
                guidance=settings.guidance,
                solver=settings.solver,
                solver_steps=settings.solver_steps,
            ).cpu()
            for tokens, mask, z in zip(group.tokens.split(16), group.mask.split(16), noise.split(16), strict=True)
        ]
        weights = projection_matrix(group.times, clip_basis(config, config.clips.longest))
        predicted.append(project(torch.cat(rendered).double(), weights))
    return predicted


def path_of(config: configs.Config, order: int, schedule: str) -> VideoLatentPath:
    """The path of the run's clips at another order or under another schedule."""
    clips, flow = config.clips, config.flow
    return VideoLatentPath(
        clip_basis(config, clips.longest, order),
        make_schedule(
            schedule, clips.num_frames_of(clips.longest), clips.longest, flow.sigma_min, flow.renoise, flow.alpha
        ),
    )
