"""Clips of different lengths side by side in one batch, each with its own basis."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vlfm.flow.bases.base import Basis


class BasisPerClip:
    """What a path asks of a basis, for clips of several: one order, time in shares of a clip's length.

    bases: all of one order and of duration 1. which: (B,), whole numbers, the basis of each clip.
    All are evaluated and one is taken: the numbers are few, and nothing waits for the device.
    """

    duration = 1.0

    def __init__(self, bases: Sequence[Basis], which: Tensor):
        if any(basis.duration != 1 or basis.order != bases[0].order for basis in bases):
            raise ValueError("bases side by side are of one order and measure time in shares of a clip's length")
        self.bases, self.which = bases, which
        self.order = bases[0].order

    def evaluate(self, t: Tensor) -> Tensor:
        """`g(t)` of each clip, (B,) or (B, K) → (B, [K,] s)."""
        return each_own([basis.evaluate(t) for basis in self.bases], self.which)

    def derivative(self, t: Tensor) -> Tensor:
        """Their derivatives, as `evaluate`."""
        return each_own([basis.derivative(t) for basis in self.bases], self.which)


def each_own(values: Sequence[Tensor], which: Tensor) -> Tensor:
    """From values (B, …), one tensor for each alternative, those that `which`, (B,), picks for each clip: (B, …)."""
    return torch.stack(tuple(values))[which, torch.arange(len(which), device=which.device)]
