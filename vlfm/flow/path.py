"""The video latent flow `ψ_t = σ_t z + m_t H g(t)` (Eq. 3, Definition D.8) and its velocity."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from vlfm.flow.bases import Basis
from vlfm.flow.bases.per_clip import BasisPerClip
from vlfm.flow.projection import reconstruct
from vlfm.flow.schedules import Schedule, SchedulePerClip


@dataclass(frozen=True)
class PathSample:
    """Points of the flow: (B, *shape) for times (B,), (B, K, *shape) for times (B, K).

    psi: ψ_t. velocity: dψ_t/dt, per second, the target of Definition D.9. mean: m H g(t).
    sigma, sigma_dot: (B,) or (B, K).
    """

    psi: Tensor
    velocity: Tensor
    mean: Tensor
    sigma: Tensor
    sigma_dot: Tensor


class Functions(Protocol):
    """What a path asks of its basis."""

    @property
    def duration(self) -> float: ...

    def evaluate(self, t: Tensor) -> Tensor: ...

    def derivative(self, t: Tensor) -> Tensor: ...


class Levels(Protocol):
    """What a path asks of its schedule."""

    @property
    def duration(self) -> float: ...

    def sigma(self, t: Tensor) -> tuple[Tensor, Tensor]: ...

    def mean_scale(self, t: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Mixture:
    """Functions of time and noise levels over the same [0, T].

    Throughout, H is (B, *shape, s), z (B, *shape), and t is (B,), one time a clip, or (B, K). Times are
    seconds in [0, T]; they are not checked here, where training would wait for the device: beyond T the
    basis's own formula holds, finite everywhere. `render`, the solvers and the paths of a given clip
    check theirs.
    """

    basis: Functions
    schedule: Levels

    def __post_init__(self) -> None:
        if not math.isclose(self.basis.duration, self.schedule.duration, rel_tol=1e-9):
            raise ValueError(
                f"the basis spans {self.basis.duration:g} s and the schedule {self.schedule.duration:g} s; "
                "a path needs one duration"
            )

    @property
    def duration(self) -> float:
        """T, seconds."""
        return self.basis.duration

    def mean(self, coefficients: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`μ_t = H g(t)` (Definition D.5) and dμ/dt, each (B, [K,] *shape). The scale m is not in it."""
        return (
            reconstruct(coefficients, self.basis.evaluate(t)),
            reconstruct(coefficients, self.basis.derivative(t)),
        )

    def scaled_mean(self, coefficients: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`m(t) H g(t)` and its derivative `ṁ H g + m H ġ`, each (B, [K,] *shape)."""
        m, m_dot = self.schedule.mean_scale(t)
        g, g_dot = self.basis.evaluate(t), self.basis.derivative(t)
        # The scale goes into g (s numbers) rather than into the latents.
        return (
            reconstruct(coefficients, m[..., None] * g),
            reconstruct(coefficients, m_dot[..., None] * g + m[..., None] * g_dot),
        )

    def sample(self, coefficients: Tensor, z: Tensor, t: Tensor) -> PathSample:
        """ψ_t and dψ_t/dt for the noise z, which all K times of a clip share."""
        mean, mean_dot = self.scaled_mean(coefficients, t)
        sigma, sigma_dot = self.schedule.sigma(t)
        noise = over_times(z, t)
        return PathSample(
            psi=per_time(sigma, mean) * noise + mean,
            velocity=per_time(sigma_dot, mean) * noise + mean_dot,
            mean=mean,
            sigma=sigma,
            sigma_dot=sigma_dot,
        )


@dataclass(frozen=True)
class VideoLatentPath(Mixture):
    """The mixture of one basis and one schedule: clips of one length."""

    basis: Basis
    schedule: Schedule


@dataclass(frozen=True)
class PathPerClip(Mixture):
    """The mixture for clips of different lengths side by side, in shares of their lengths."""

    basis: BasisPerClip
    schedule: SchedulePerClip


@dataclass(frozen=True)
class VideoLatentFlow:
    """The flow of given clips from given noise: an object of time alone, with `evaluate(t)` and
    `derivative(t)`.
    """

    path: VideoLatentPath
    coefficients: Tensor
    z: Tensor

    def evaluate(self, t: Tensor) -> Tensor:
        """ψ_t, (B, [K,] *shape)."""
        return self.path.sample(self.coefficients, self.z, t).psi

    def derivative(self, t: Tensor) -> Tensor:
        """dψ_t/dt, (B, [K,] *shape), per second."""
        return self.path.sample(self.coefficients, self.z, t).velocity


def per_time(values: Tensor, like: Tensor) -> Tensor:
    """Values of times, (B,) or (B, K), shaped to multiply latents (B, [K,] *shape), in their dtype."""
    return values.to(like.dtype).reshape(*values.shape, *(1,) * (like.ndim - values.ndim))


def over_times(latents: Tensor, t: Tensor) -> Tensor:
    """Latents (B, *shape) beside times (B,) or (B, K): a K axis is added where the times have one."""
    return latents.unsqueeze(1) if torch.as_tensor(t).ndim == 2 else latents
