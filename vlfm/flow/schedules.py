"""Noise schedules of the path: the level σ(t) and the scale of the mean m(t), each with its derivative."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow.bases.base import check_duration, check_num_frames
from vlfm.flow.bases.per_clip import each_own


class Schedule(ABC):
    """`ψ_t = σ(t) z + m(t) H g(t)`: what an N-frame clip of T seconds is mixed with, at each time.

    Values come with their derivatives per second, in t's dtype, shape and device. No check is made on t
    (training calls these): before 0 and beyond T the formula itself is the documented value, always finite.
    """

    num_frames: int
    duration: float
    sigma_min: float

    @abstractmethod
    def sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """σ(t) and dσ/dt, each of t's shape."""

    @abstractmethod
    def mean_scale(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """m(t) and dm/dt, each of t's shape."""

    @property
    def lead_in(self) -> float:
        """T/N, seconds: the time of the first frame."""
        return self.duration / self.num_frames

    @property
    def starts_at_noise(self) -> bool:
        """Whether the mean starts at 0, so that ψ_0 = z (section 4.2 asks for it; see D4)."""
        return float(self.mean_scale(torch.zeros((), dtype=torch.float64))[0]) == 0

    def _check(self) -> None:
        check_duration(self.duration)
        check_num_frames(self.num_frames)
        if not 0 < self.sigma_min < 1:
            raise VLFMError(f"sigma_min must lie between 0 and 1 (exclusive); it is {self.sigma_min}")

    def _ripple(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sin²(πNt/T) and its derivative; the argument is reduced first, or float32 would lose the zeros."""
        frames = t * (self.num_frames / self.duration)
        phase = math.pi * (frames - torch.round(frames))
        return torch.sin(phase) ** 2, (math.pi / self.lead_in) * torch.sin(2 * phase)


@dataclass(frozen=True)
class ExactSchedule(Schedule):
    """The corrected schedule (default): the four boundary conditions of section 4.2 hold, and σ ≤ 1 (D3, D4).

    With the smoothstep `m` from 0 at t = 0 to 1 at t = T/N and 1 after it,
    `σ = σ_min + (1 − σ_min) [1 − m + a b]`, `b = sin²(πNt/T)` from T/N on, else 0. So σ_0 = 1, σ = σ_min at
    every nominal frame, m_0 = 0 (the mean starts at 0), m = 1 from T/N on. Both are C¹ everywhere.

    num_frames: N. duration: T, seconds. sigma_min: noise left at the frames, in (0, 1).
    renoise: a in [0, 1], the noise added midway between frames; 1 is the paper's ripple.
    """

    num_frames: int
    duration: float
    sigma_min: float = 0.01
    renoise: float = 0.0

    def __post_init__(self) -> None:
        self._check()
        if not 0 <= self.renoise <= 1:
            raise VLFMError(f"renoise must lie in [0, 1]; it is {self.renoise}")

    def mean_scale(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`m = 3x² − 2x³` with `x = clamp(tN/T, 0, 1)`, and dm/dt."""
        x = (t * (self.num_frames / self.duration)).clamp(0, 1)
        return x * x * (3 - 2 * x), (6 / self.lead_in) * x * (1 - x)

    def sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """σ in [σ_min, 1], and dσ/dt."""
        m, m_dot = self.mean_scale(t)
        level, slope = 1 - m, -m_dot
        if self.renoise:
            ripple, ripple_dot = self._ripple(t)
            after = t >= self.lead_in
            level = level + self.renoise * torch.where(after, ripple, torch.zeros_like(ripple))
            slope = slope + self.renoise * torch.where(after, ripple_dot, torch.zeros_like(ripple))
        return self.sigma_min + (1 - self.sigma_min) * level, (1 - self.sigma_min) * slope


@dataclass(frozen=True)
class PaperSchedule(Schedule):
    """The schedule as printed (Definition D.6): `σ = (1 − σ_min) [sin²(πNt/T) + e^{−αt}] + σ_min`, and m = 1.

    Kept to reproduce the paper. It does not meet the conditions stated beside it (D3): at frame τ it is
    `σ_min + (1 − σ_min) e^{−ατT/N}`, not σ_min; it reaches about 1.8; and it is near 1 midway between frames.
    The mean is not 0 at t = 0 (D4), and almost all of the velocity target is the ripple's (D5).

    alpha: α > 0, per second.
    """

    num_frames: int
    duration: float
    sigma_min: float = 0.01
    alpha: float = 10.0

    def __post_init__(self) -> None:
        self._check()
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise VLFMError(f"alpha must be positive and finite; it is {self.alpha}")

    def mean_scale(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 and 0."""
        return torch.ones_like(t), torch.zeros_like(t)

    def sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """σ, in (σ_min, 2 − σ_min), and dσ/dt."""
        ripple, ripple_dot = self._ripple(t)
        decay = torch.exp(-self.alpha * t)
        scale = 1 - self.sigma_min
        return scale * (ripple + decay) + self.sigma_min, scale * (ripple_dot - self.alpha * decay)


class SchedulePerClip:
    """Clips of different lengths side by side in one batch: each its own schedule, over shares of its length.

    H has one shape whatever the length (Lemma 5.4); σ and m alone must know how many frames a clip has.

    schedules: one for each length, all of duration 1. which: (B,), whole numbers, the schedule of each clip.
    All are evaluated and one is taken: the numbers are few, and nothing waits for the device.
    """

    duration = 1.0

    def __init__(self, schedules: Sequence[Schedule], which: Tensor):
        if any(schedule.duration != 1 for schedule in schedules):
            raise ValueError("schedules side by side measure time in shares of a clip's length: their duration is 1")
        self.schedules, self.which = schedules, which

    @property
    def lead_in(self) -> Tensor:
        """T/N of each clip, (B,), as a share of T."""
        return each_own(
            [torch.full(self.which.shape, each.lead_in, device=self.which.device) for each in self.schedules],
            self.which,
        )

    @property
    def starts_at_noise(self) -> bool:
        """Whether the mean of every clip starts at 0."""
        return all(schedule.starts_at_noise for schedule in self.schedules)

    def sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """σ(t) of each clip and dσ/dt, (B,) or (B, K)."""
        values, slopes = zip(*(schedule.sigma(t) for schedule in self.schedules), strict=True)
        return each_own(values, self.which), each_own(slopes, self.which)

    def mean_scale(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """m(t) of each clip and dm/dt, (B,) or (B, K)."""
        values, slopes = zip(*(schedule.mean_scale(t) for schedule in self.schedules), strict=True)
        return each_own(values, self.which), each_own(slopes, self.which)


SCHEDULES = {"exact": ExactSchedule, "paper": PaperSchedule}


def make_schedule(
    name: str, num_frames: int, duration: float, sigma_min: float, renoise: float = 0.0, alpha: float = 10.0
) -> Schedule:
    """The schedule of that name; `renoise` is used by `exact` alone, `alpha` by `paper` alone.

    Raises `VLFMError` for an unknown name and for numbers out of range.
    """
    if name == "exact":
        return ExactSchedule(num_frames, duration, sigma_min, renoise)
    if name == "paper":
        return PaperSchedule(num_frames, duration, sigma_min, alpha)
    raise VLFMError(f"unknown schedule {name!r}; there are {', '.join(SCHEDULES)}")
