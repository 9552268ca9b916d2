"""The orthonormal Legendre basis on [0, T]: the `g(t)` of the paper's Eq. (3)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlfm.errors import VLFMError


def check_duration(duration: float) -> None:
    """Raises `VLFMError` unless `duration` is a positive, finite number of seconds."""
    if not (math.isfinite(duration) and duration > 0):
        raise VLFMError(f"the duration of a clip must be positive and finite (seconds); it is {duration}")


def check_order(order: int) -> None:
    """Raises `VLFMError` unless `order` counts at least one polynomial."""
    if isinstance(order, bool) or int(order) != order or order < 1:
        raise VLFMError(f"the order (Legendre polynomials a clip) must be a whole number from 1 up; it is {order}")


def check_num_frames(num_frames: int) -> None:
    """Raises `VLFMError` unless `num_frames` counts at least one frame."""
    if isinstance(num_frames, bool) or int(num_frames) != num_frames or num_frames < 1:
        raise VLFMError(f"a clip needs a whole number of frames, at least 1; it has {num_frames}")


@dataclass(frozen=True)
class LegendreBasis:
    """`g_n(t) = √(2n+1) P_n(2t/T − 1)`, n = 0 … s−1: orthonormal on [0, T] under the uniform measure.

    The paper's Definition D.4, `√((2n+1)/2) P_n(t)`, is neither mapped to [−1, 1] nor scaled to match
    Definition D.2's `B`; this is the basis that its coefficients reconstruct in (D2 of the working
    specification). Orthonormality is what gives Parseval: the time average of `||(Ĥ − H) g(t)||²` is
    `||Ĥ − H||²_F`.

    order: number of polynomials s, from 1 up. duration: T, seconds.
    """

    order: int
    duration: float

    def __post_init__(self):
        check_order(self.order)
        check_duration(self.duration)

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

    def _unit(self, t: Tensor) -> Tensor:
        """[0, T] → [−1, 1]; whole numbers become the default float."""
        t = torch.as_tensor(t)
        if not t.is_floating_point():
            t = t.to(torch.get_default_dtype())
        return t * (2.0 / self.duration) - 1.0

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
