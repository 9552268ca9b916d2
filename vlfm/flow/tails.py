"""Beyond the end of a clip: what a path does after T. Every tail has a name, and none is chosen in silence.

Legendre polynomials grow without bound outside [0, T] (D7): rendering 8 s from a clip of 2 s evaluates P_n(7),
times √(2n+1) that is 3e4 for n = 4, 1e9 for n = 8 and 1.6e18 for n = 16. Cosines do not: continued, the clip plays
backwards after T + T/2N, and forwards again after that.

Measured on 21 clips without cuts of three real videos (96×96, 6×6 patches, 16 components, unit variance; 12
frames seen, mean squared error 1, 3 and 6 frames later; hybrid path of 4 Legendre polynomials):

| tail | +1 | +3 | +6 |
| --- | --- | --- | --- |
| hold | 0.043 | 0.133 | 0.207 |
| linear, δ = T/32, T/16, T/4 | 0.051, 0.061, 0.084 | 0.141, 0.163, 0.330 | 0.216, 0.240, 0.581 |
| refit of order 2 over T, T/4 | 0.048, 0.057 | 0.175, 0.273 | 0.362, 0.774 |
| continued (order 4; 6) | 0.098; 0.458 | 1.15; 25.6 | 9.8; 967 |

At fixed positions nothing beats the last frame: motion moves through a position and does not go on there.
Hence the short δ and the long window.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow.bases import Basis, LegendreBasis
from vlfm.flow.interpolation import HybridPath, ProjectedPath
from vlfm.flow.path import per_time
from vlfm.flow.projection import project, projection_matrix, reconstruct

TAILS = ("continued", "hold", "linear", "refit")


def growth(basis: Basis, t: Tensor) -> Tensor:
    """`||g(t)||` in units of its largest within the clip, t's shape: 1 at T for Legendre, never above 1 for cosines."""
    norm: Tensor = basis.evaluate(t).norm(dim=-1)
    return norm / basis.peak


@dataclass(frozen=True)
class ExtendedPath:
    """A clip's path with a tail: an object with `evaluate(t)` and `derivative(t)` for t ≥ 0, continuous at T.

    path: the clip's path on [0, T]; up to T it is used unchanged.
    tail:

    - `continued`: the basis's own formula goes on (the paper). Refused where `growth` exceeds max_growth.
    - `hold`: the last latent.
    - `linear`: the end slope, dying away with the time constant `damping`:
      `u_T + u̇_T δ (1 − e^{−(t−T)/δ})`. It never leaves by more than δ times the slope.
    - `refit`: least squares of `refit_order` on the path at `refit_frames` times evenly spaced over the last
      `window` seconds, shifted to meet the path at T.

    max_growth: how much the basis may exceed its size at T. damping: δ, seconds, default T/16.
    window: seconds in (0, T], default T. refit_order: default 2, a straight line, whose growth is linear in
    time.
    """

    path: ProjectedPath | HybridPath
    tail: str
    max_growth: float = 10.0
    damping: float | None = None
    window: float | None = None
    refit_order: int = 2
    refit_frames: int = 16

    def __post_init__(self) -> None:
        if self.tail not in TAILS:
            raise VLFMError(f"unknown tail {self.tail!r}; there are {', '.join(TAILS)}")
        positive = {"damping": self._damping, "window": self._window, "max_growth": self.max_growth}
        for name, value in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise VLFMError(f"{name} must be positive and finite; it is {value}")
        if self._window > self.duration:
            raise VLFMError(f"the window ({self._window:g} s) is longer than the clip ({self.duration:g} s)")
        if not 1 <= self.refit_order <= self.refit_frames:
            raise VLFMError(f"refit_order must lie in 1 … {self.refit_frames} (refit_frames); it is {self.refit_order}")

    @property
    def duration(self) -> float:
        """T, seconds: where the tail begins."""
        return self.path.duration

    def evaluate(self, t: Tensor) -> Tensor:
        """Latents at t: () → (B, *shape); (K,) or (B, K) → (B, K, *shape)."""
        return self._joined(t, self.path.evaluate, 0)

    def derivative(self, t: Tensor) -> Tensor:
        """Their derivative, per second; at T itself the path's."""
        return self._joined(t, self.path.derivative, 1)

    @property
    def _damping(self) -> float:
        return self.duration / 16 if self.damping is None else self.damping

    @property
    def _window(self) -> float:
        return self.duration if self.window is None else self.window

    def _joined(self, t: Tensor, inside: Callable[[Tensor], Tensor], which: int) -> Tensor:
        t = torch.as_tensor(t)
        t = t if t.is_floating_point() else t.to(torch.get_default_dtype())
        if t.ndim > 2:
            raise VLFMError(f"times must be (), (K,) or (B, K); they are {tuple(t.shape)}")
        if not torch.isfinite(t).all():
            raise VLFMError("times must be finite seconds; some are NaN or infinite")
        times = t.reshape(1, -1) if t.ndim < 2 else t
        values = inside(times.clamp(max=self.duration))
        beyond = times.to(values.device) > self.duration
        if beyond.any():
            tail = self._tail(times.clamp(min=self.duration).to(values.device))[which]
            values = torch.where(per_time(beyond, values).bool(), tail, values)
        return values[:, 0] if t.ndim == 0 else values

    def _tail(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Value and derivative at t (B or 1, K), all ≥ T."""
        if self.tail == "continued":
            return self._continued(t)
        end = self.path.evaluate(t.new_full((1, 1), self.duration))
        if self.tail == "hold":
            held = end.expand(-1, t.shape[1], *end.shape[2:])
            return held, torch.zeros_like(held)
        if self.tail == "refit":
            return self._refit(t, end)
        slope = self.path.derivative(t.new_full((1, 1), self.duration))
        decay = torch.exp(-(t - self.duration) / self._damping)
        return end + per_time(self._damping * (1 - decay), end) * slope, per_time(decay, end) * slope

    def _continued(self, t: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.path.projected if isinstance(self.path, HybridPath) else self.path
        basis = projected.basis
        worst = float(growth(basis, t.max()))
        if not worst <= self.max_growth:
            raise VLFMError(
                f"the tail `continued` is refused: at t = {float(t.max()):g} s the {basis.order} {basis.plural} "
                f"of a {self.duration:g} s clip have grown {worst:.3g} times (limit "
                f"{self.max_growth:g}, reached at {reach(basis, self.max_growth):.3g} s). "
                "Use the tail hold, linear or refit, or a lower order"
            )
        values = reconstruct(projected.coefficients, basis.evaluate(t))
        if isinstance(self.path, HybridPath):
            values = values + self.path.residual[:, -1:]
        return values, reconstruct(projected.coefficients, basis.derivative(t))

    def _refit(self, t: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        basis = LegendreBasis(self.refit_order, self._window)
        local = torch.linspace(0, self._window, self.refit_frames, dtype=torch.float64)
        weights = projection_matrix(local, basis)
        times = (local + (self.duration - self._window)).clamp(0, self.duration)
        coefficients = project(self.path.evaluate(times), weights)
        shifted = t - (self.duration - self._window)
        at_end = reconstruct(coefficients, basis.evaluate(t.new_full((1, 1), self._window)))
        values = reconstruct(coefficients, basis.evaluate(shifted)) - at_end + end
        return values, reconstruct(coefficients, basis.derivative(shifted))


def reach(basis: Basis, max_growth: float) -> float:
    """The last time, seconds, at which `growth` stays within max_growth (≥ 1). Infinite for a bounded basis."""
    if basis.bounded:
        return math.inf
    low, high = basis.duration, 2 * basis.duration
    while float(growth(basis, torch.tensor(high, dtype=torch.float64))) <= max_growth:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        inside = float(growth(basis, torch.tensor(middle, dtype=torch.float64))) <= max_growth
        low, high = (middle, high) if inside else (low, middle)
    return low
