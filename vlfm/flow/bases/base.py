"""What every basis of time offers."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlfm.errors import VLFMError


def check_duration(duration: float) -> None:
    """Raises `VLFMError` unless `duration` is a positive, finite number of seconds."""
    if not (math.isfinite(duration) and duration > 0):
        raise VLFMError(f"the duration of a clip must be positive and finite (seconds); it is {duration}")


def check_order(order: int) -> None:
    """Raises `VLFMError` unless `order` counts at least one function."""
    if isinstance(order, bool) or int(order) != order or order < 1:
        raise VLFMError(f"the order (basis functions a clip) must be a whole number from 1 up; it is {order}")


def check_num_frames(num_frames: int) -> None:
    """Raises `VLFMError` unless `num_frames` counts at least one frame."""
    if isinstance(num_frames, bool) or int(num_frames) != num_frames or num_frames < 1:
        raise VLFMError(f"a clip needs a whole number of frames, at least 1; it has {num_frames}")


@dataclass(frozen=True)
class Basis(ABC):
    """s functions `g_0 … g_{s−1}` of time, orthonormal over `span` under the uniform measure; `g_0 = 1`.

    Orthonormality is what gives Parseval: the average of `||(Ĥ − H) g(t)||²` over `span` is `||Ĥ − H||²_F`.
    Theorem 4.1 holds for any of them: it asks for g and its derivative alone.

    order: s, from 1 up. duration: T, seconds.
    """

    name: ClassVar[str]
    plural: ClassVar[str]  # what its functions are called

    order: int
    duration: float

    def __post_init__(self) -> None:
        check_order(self.order)
        check_duration(self.duration)

    @classmethod
    def of_frames(cls, order: int, duration: float, num_frames: int) -> Self:
        """The basis for clips whose nominal frames are the N at `τT/N`. Raises `VLFMError` out of range."""
        check_num_frames(num_frames)
        return cls(order, duration)

    def over(self, duration: float) -> Self:
        """The same functions, stretched to `duration` seconds."""
        return replace(self, duration=duration)

    @abstractmethod
    def evaluate(self, t: Tensor) -> Tensor:
        """`g(t)`, (...,) → (..., s), in t's dtype and on its device; whole numbers become the default float.

        Any t is answered, by the formula: nothing is checked here, where training would pay for it.
        """

    @abstractmethod
    def derivative(self, t: Tensor) -> Tensor:
        """`dg/dt`, per second, (...,) → (..., s)."""

    @property
    def span(self) -> tuple[float, float]:
        """Seconds between which the functions are orthonormal."""
        return 0.0, self.duration

    @property
    @abstractmethod
    def roughness(self) -> Tensor:
        """(s,) float64: how much each function bends, what a ridge weighs it by; 0 for `g_0`."""

    @property
    @abstractmethod
    def peak(self) -> float:
        """The largest `||g(t)||` on [0, T]."""

    @property
    @abstractmethod
    def bounded(self) -> bool:
        """Whether `||g(t)||` stays below `peak` at all times, outside [0, T] too."""

    @staticmethod
    @abstractmethod
    def safe_order(num_frames: int) -> int:
        """The largest order that least squares on N evenly spaced frames carries without ringing between them."""


def as_time(t: Tensor) -> Tensor:
    """t as floating point; whole numbers become the default float."""
    t = torch.as_tensor(t)
    return t if t.is_floating_point() else t.to(torch.get_default_dtype())
