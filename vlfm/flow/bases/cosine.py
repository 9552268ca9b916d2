"""Cosines of whole half-waves: the functions of the discrete cosine transform, at any time."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from vlfm.flow.bases.base import Basis, as_time, check_num_frames
from vlfm.flow.names import FUNCTIONS


@dataclass(frozen=True)
class CosineBasis(Basis):
    """`g_0 = 1`, `g_n(t) = √2 cos(πn x)`, `x = (t − T/2N)/T`: the nominal frames `τT/N` lie in the middle of N cells.

    So at the nominal frames it is the DCT-II: its N functions are orthogonal on N frames, least squares is one
    product with the cosines, and any order up to N is safe. Outside the clip it does not grow: the path is
    mirrored at `T/2N` and at `T + T/2N`.

    order: number of functions s. duration: T, seconds. num_frames: N.
    """

    name: ClassVar[str] = "cosine"
    plural: ClassVar[str] = FUNCTIONS["cosine"]

    num_frames: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_num_frames(self.num_frames)

    @classmethod
    def of_frames(cls, order: int, duration: float, num_frames: int) -> Self:
        return cls(order, duration, num_frames)

    def evaluate(self, t: Tensor) -> Tensor:
        """`g(t)`, (...,) → (..., s); `|g_n| ≤ √2` at every t."""
        phase, frequency = self._phase(t)
        return torch.cos(phase * frequency) * self._scale(phase)

    def derivative(self, t: Tensor) -> Tensor:
        phase, frequency = self._phase(t)
        return torch.sin(phase * frequency) * (frequency * (-math.pi / self.duration) * self._scale(phase))

    @property
    def span(self) -> tuple[float, float]:
        half = self.duration / (2 * self.num_frames)
        return half, self.duration + half

    @property
    def roughness(self) -> Tensor:
        """n², in units of `(π/T)²`: minus the second derivative's eigenvalue."""
        return torch.arange(self.order, dtype=torch.float64).square()

    @property
    def peak(self) -> float:
        return math.sqrt(2 * self.order - 1)

    @property
    def bounded(self) -> bool:
        return True

    @staticmethod
    def safe_order(num_frames: int) -> int:
        """N."""
        return num_frames

    def _phase(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """πx, (..., 1), reduced to [−π, π], where float32 is exact to its rounding, and n, (s,)."""
        t = as_time(t)
        x = t / self.duration - 1 / (2 * self.num_frames)
        x = x - 2 * torch.round(x / 2)
        return (math.pi * x)[..., None], torch.arange(self.order, dtype=t.dtype, device=t.device)

    def _scale(self, like: Tensor) -> Tensor:
        scale = like.new_full((self.order,), math.sqrt(2))
        scale[0] = 1
        return scale
