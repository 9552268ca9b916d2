"""What a batch is trained on: the random numbers of each sample, and the loss of each clip.

Everything random about a sample is a function of (seed, step, its position in the whole batch) alone, so that how a
batch is divided among processes and parts changes nothing.
"""

from dataclasses import dataclass

import torch

from vlfm import config as configs
from vlfm.flow.legendre import LegendreBasis
from vlfm.flow.losses import parseval
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.schedules import make_schedule
from vlfm.model.transformer import VLFMTransformer
from vlfm.training.data import Batch
from vlfm.training.times import sample_times


def flow_path(config: configs.Config) -> VideoLatentPath:
    """The basis and schedule that the configuration asks for."""
    clips, flow = config.clips, config.flow
    return VideoLatentPath(
        LegendreBasis(flow.order, clips.duration),
        make_schedule(flow.schedule, clips.num_frames, clips.duration, flow.sigma_min, flow.renoise, flow.alpha),
    )


@dataclass(frozen=True)
class Draw:
    """The random numbers of some samples: noise (B, C, h, w), times (B,) in seconds."""

    noise: torch.Tensor
    times: torch.Tensor

    def to(self, device: torch.device) -> "Draw":
        return Draw(*(value.to(device, non_blocking=True) for value in vars(self).values()))


class Objective:
    """The loss the configuration asks for."""

    def __init__(self, config: configs.Config):
        self.config = config
        self.path = flow_path(config)

    def draw(self, step: int, positions: range, shape: tuple[int, int, int]) -> Draw:
        """The random numbers of the samples at `positions` of the batch of step `step`.

        Args:
            shape: (C, h, w) of the latents.
        """
        settings, seed = self.config.training, self.config.seed
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        times = sample_times(
            settings.batch_size,
            self.path.duration,
            self.path.schedule.lead_in,
            settings.pure_noise,
            settings.lead_in,
            generator,
        )
        noise = torch.empty(len(positions), *shape)
        for index, position in enumerate(positions):
            generator.manual_seed((seed * 1_000_003 + step) * 65_537 + 1 + position)
            noise[index].normal_(generator=generator)
        return Draw(noise, times[list(positions)])

    def __call__(self, model: VLFMTransformer, batch: Batch, draw: Draw, scale: torch.Tensor) -> torch.Tensor:
        """The loss of each clip, (B,), in units of the latents' mean square.

        Args:
            model: called as `VLFMTransformer` is; it may be wrapped.
            scale: the network's `latent_scale`.
        """
        coefficients = batch.coefficients / scale
        psi = self.path.sample(coefficients, draw.noise, draw.times).psi
        prediction = model(psi, draw.times, batch.tokens, batch.mask)
        return parseval(prediction, coefficients, reduction="none")
