"""The orthonormal Legendre basis on [0, T]: the `g(t)` of the paper's Eq. (3)."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vlfm.flow.bases.base import Basis, as_time
from vlfm.flow.names import FUNCTIONS


@dataclass(frozen=True)
class LegendreBasis(Basis):
    """`g_n(t) = √(2n+1) P_n(2t/T − 1)`, n = 0 … s−1: orthonormal on [0, T] under the uniform measure.

    The paper's Definition D.4, `√((2n+1)/2) P_n(t)`, is neither mapped to [−1, 1] nor scaled to match
    Definition D.2's `B`; this is the basis that its coefficients reconstruct in (D2 in
    docs/how-it-works.md).

    order: number of polynomials s, from 1 up. duration: T, seconds.
    """

    name: ClassVar[str] = "legendre"
    plural: ClassVar[str] = FUNCTIONS["legendre"]

    def evaluate(self, t: Tensor) -> Tensor:
        """`g(t)`, (...,) → (..., s), in t's dtype and on its device.

        On [0, T] `|g_n| ≤ √(2n+1)`. Outside, the polynomials grow without bound (`vlfm.flow.tails`): the
        value returned is the polynomial's, and no check is made here, where training would pay for it.
        """
        return self._scaled(self._polynomials(self._unit(t)))

    def derivative(self, t: Tensor) -> Tensor:
        """`dg/dt`, per second, (...,) → (..., s)."""
        x = self._unit(t)
        values = self._polynomials(x)
        slopes = [torch.zeros_like(x), torch.ones_like(x)]
        for n in range(1, self.order - 1):
            slopes.append(slopes[n - 1] + (2 * n + 1) * values[n])  # P'_{n+1} = P'_{n−1} + (2n+1) P_n
        return self._scaled(slopes) * (2.0 / self.duration)

    @property
    def roughness(self) -> Tensor:
        """n(n+1): the eigenvalues of the Legendre operator."""
        n = torch.arange(self.order, dtype=torch.float64)
        return n * (n + 1)

    @property
    def peak(self) -> float:
        """s, reached at 0 and at T."""
        return float(self.order)

    @property
    def bounded(self) -> bool:
        return self.order == 1

    @staticmethod
    def safe_order(num_frames: int) -> int:
        """2√N, rounded down (D1)."""
        return math.isqrt(4 * num_frames)

    def _unit(self, t: Tensor) -> Tensor:
        """[0, T] → [−1, 1]; whole numbers become the default float."""
        return as_time(t) * (2.0 / self.duration) - 1.0

    def _polynomials(self, x: Tensor) -> list[Tensor]:
        """P_0 … P_{s−1} by Bonnet's recurrence, stable on [−1, 1]; at least P_0 and P_1."""
        values = [torch.ones_like(x), x]
        for n in range(1, self.order - 1):
            values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
        return values

    def _scaled(self, values: list[Tensor]) -> Tensor:
        stacked = torch.stack(values[: self.order], -1)
        n = torch.arange(self.order, dtype=stacked.dtype, device=stacked.device)
        return stacked * torch.sqrt(2 * n + 1)
