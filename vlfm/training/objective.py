"""What a batch is trained on: the random numbers of each sample, and the loss of each clip.

Everything random about a sample is a function of (seed, step, its position in the whole batch) alone, so that how a
batch is divided among processes and parts changes nothing. Time is measured in shares of a clip's length, so that
clips of different lengths lie in one batch: H has one shape whatever the length (Lemma 5.4).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.errors import VLFMError
from vlfm.flow.bases.per_clip import BasisPerClip
from vlfm.flow.losses import parseval, velocity_mse
from vlfm.flow.path import PathPerClip, VideoLatentPath
from vlfm.flow.schedules import Schedule, SchedulePerClip, make_schedule
from vlfm.training.data import Batch
from vlfm.training.time_sampling import place, sample_kinds

Captions = tuple[torch.Tensor, torch.Tensor]
QUADRATURE = 64  # points a frame interval


@dataclass(frozen=True)
class Draw:
    """The random numbers of some samples.

    Attributes:
        noise: z, (B, C, h, w).
        kinds, uniform: (B,), where in time; see `vlfm.training.time_sampling.place`.
        uncaptioned: (B,) bool, which captions are replaced by the empty one.
    """

    noise: torch.Tensor
    kinds: torch.Tensor
    uniform: torch.Tensor
    uncaptioned: torch.Tensor

    def to(self, device: torch.device) -> "Draw":
        return Draw(*(value.to(device, non_blocking=True) for value in vars(self).values()))

    def pin_memory(self) -> "Draw":
        return Draw(*(value.pin_memory() for value in vars(self).values()))


class Objective:
    """The loss the configuration asks for.

    Args:
        empty_caption: tokens (L, D) and mask (L,) of the empty caption, for `training.caption_dropout`.

    Raises:
        VLFMError: if captions are to be dropped and there is no empty one.
    """

    def __init__(self, config: configs.Config, empty_caption: Captions | None = None):
        if config.training.caption_dropout and empty_caption is None:
            raise VLFMError(
                f"training.caption_dropout is {config.training.caption_dropout:g}, but there is no embedding of the "
                "empty caption: run `snakemake --cores all train`, or `vlfm empty-caption` before `vlfm train`"
            )
        self.config = config
        self.empty_caption = empty_caption
        self.durations = config.clips.durations
        self.schedules = [unit_schedule(config, duration) for duration in self.durations]
        self.bases = [clip_basis(config, duration).over(1.0) for duration in self.durations]

    def draw(self, step: int, positions: range, shape: tuple[int, int, int]) -> Draw:
        """The random numbers of the samples at `positions` of the batch of step `step`.

        Args:
            shape: (C, h, w) of the latents.
        """
        settings, seed = self.config.training, self.config.seed
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
        kinds, uniform = sample_kinds(settings.batch_size, settings.pure_noise, settings.lead_in, generator)
        uncaptioned = torch.rand(settings.batch_size, generator=generator) < settings.caption_dropout
        noise = torch.empty(len(positions), *shape)
        for index, position in enumerate(positions):
            generator.manual_seed(((seed * 1_000_003 + step) * 65_537 + 1 + position) % 2**63)
            noise[index].normal_(generator=generator)
        chosen = list(positions)
        return Draw(noise, kinds[chosen], uniform[chosen], uncaptioned[chosen])

    def __call__(
        self, model: Callable[..., torch.Tensor], batch: Batch, draw: Draw, scale: torch.Tensor
    ) -> torch.Tensor:
        """The loss of each clip, (B,).

        `coefficients`: the Parseval loss, in units of the latents' mean square. `direct`: the error of H g(t) in the
        same units; its mean over the span of the basis is the Parseval loss. `velocity`: the error of dψ/dt per frame
        interval, in those units. There σ̇ is of order 1 at any frame rate, like the 1 that `training.weighting` adds to
        σ̇² before it divides.

        Args:
            model: called as `VLFMTransformer` is; it may be wrapped.
            scale: the network's `latent_scale`.
        """
        settings, head = self.config.training, self.config.model.head
        coefficients = batch.coefficients / scale
        path = self._path(batch)
        t = place(draw.kinds, draw.uniform, path.schedule.lead_in, settings.emphasis)
        sample = path.sample(coefficients, draw.noise, t)
        tokens, mask = self._captions(batch, draw)
        duration = batch.duration if len(self.durations) > 1 else None
        prediction = model(sample.psi, t, tokens, mask, duration)
        if head == "coefficients":
            return parseval(prediction, coefficients, reduction="none")
        if head == "direct":
            return velocity_mse(prediction, path.mean(coefficients, t)[0], reduction="none")
        lead = path.schedule.lead_in
        interval = lead.to(t.dtype).expand_as(t) if isinstance(lead, torch.Tensor) else torch.full_like(t, lead)
        sigma_dot = sample.sigma_dot * interval if settings.weighting == "inverse_energy" else None
        target = sample.velocity * interval.reshape(-1, *(1,) * (sample.velocity.ndim - 1))
        return velocity_mse(prediction / self.config.clips.fps, target, sigma_dot, reduction="none")

    def _path(self, batch: Batch) -> VideoLatentPath | PathPerClip:
        if len(self.durations) == 1:
            return VideoLatentPath(self.bases[0], self.schedules[0])
        # No tensor of the lengths: to copy one to a GPU would wait for it, at every step.
        which = torch.stack([(batch.duration - known).abs() for known in self.durations]).argmin(0)
        return PathPerClip(BasisPerClip(self.bases, which), SchedulePerClip(self.schedules, which))

    def _captions(self, batch: Batch, draw: Draw) -> Captions:
        if not self.config.training.caption_dropout:
            return batch.tokens, batch.mask
        # Kept where it is needed: to copy it at each step would wait for the device.
        tokens, mask = self.empty_caption = tuple(value.to(batch.tokens.device) for value in self.empty_caption)
        return (
            torch.where(draw.uncaptioned[:, None, None], tokens.to(batch.tokens.dtype), batch.tokens),
            torch.where(draw.uncaptioned[:, None], mask, batch.mask),
        )


def unit_schedule(config: configs.Config, duration: float) -> Schedule:
    """The configured schedule of clips of `duration` seconds, over shares of their length."""
    clips, flow = config.clips, config.flow
    frames = clips.num_frames_of(duration)
    return make_schedule(flow.schedule, frames, 1.0, flow.sigma_min, flow.renoise, flow.alpha * duration)


def velocity_rms(config: configs.Config, mean_square: torch.Tensor) -> float:
    """Root mean square of dψ/dt over [0, T] and the configured lengths, per second, in units of the latents'.

    `E[σ̇²] + Σ_n E[H_n²] (d/dt m g_n)²` by quadrature; orders count as uncorrelated, which a scale can bear.

    Args:
        mean_square: E[H_n²], (s,).
    """
    shares = mean_square.double() / mean_square.sum()
    energies = []
    for duration in config.clips.durations:
        schedule = unit_schedule(config, duration)
        basis = clip_basis(config, duration).over(1.0)
        points = QUADRATURE * schedule.num_frames
        t = (torch.arange(points, dtype=torch.float64) + 0.5) / points
        m, m_dot = (value[:, None] for value in schedule.mean_scale(t))
        slopes = m_dot * basis.evaluate(t) + m * basis.derivative(t)
        energy = schedule.sigma(t)[1].square() + (slopes.square() * shares).sum(1)
        energies.append(energy.mean() / duration**2)
    return float(torch.stack(energies).mean().sqrt())
