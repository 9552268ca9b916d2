"""The projection as a stream: append a frame to H without keeping the earlier ones."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow import hippo_legs
from vlfm.flow.bases import Basis
from vlfm.flow.bases.base import check_order
from vlfm.flow.projection import check_finite, check_ridge


class OnlineProjection(ABC):
    """What both streams share: frames arrive as (B, *shape) with a time, strictly increasing.

    The s × s part of the state is float64. The rest lies on the latents' device, in their dtype, at least float32.
    """

    def __init__(self, order: int):
        check_order(order)
        self.order = order
        self.num_frames = 0
        self.last_time: float | None = None
        self._state: Tensor | None = None  # (B, s, d)
        self._shape: tuple[int, ...] = ()

    def append(self, latents: Tensor, t: float) -> None:
        """Add the frame `latents` (B, *shape) seen at t seconds.

        Raises `VLFMError`, leaving the state as it was, if the time does not increase, the shape changes, or
        a latent is not finite.
        """
        if not math.isfinite(t) or (self.last_time is not None and t <= self.last_time):
            raise VLFMError(f"frame times must be finite and increase strictly: {t} s after {self.last_time} s")
        if self._state is not None and tuple(latents.shape) != self._shape:
            raise VLFMError(f"a frame has shape {tuple(latents.shape)}; the earlier ones have {self._shape}")
        check_finite(latents, "the frames of")
        self._check_time(t)
        flat = latents.to(torch.promote_types(latents.dtype, torch.float32)).reshape(len(latents), 1, -1)
        if self._state is None:
            self._shape = tuple(latents.shape)
            self._state = flat.new_zeros(len(flat), self.order, flat.shape[-1])
        self._state = self._advanced(self._state, flat, t)
        self.num_frames += 1
        self.last_time = t

    @property
    def coefficients(self) -> Tensor:
        """H, (B, *shape, s), of the frames so far. Raises `VLFMError` while they do not determine it."""
        if self._state is None:
            raise VLFMError("no frame yet: append one before reading the coefficients")
        solved = self._solved(self._state)
        return solved.reshape(self._shape[0], self.order, *self._shape[1:]).movedim(1, -1)

    @abstractmethod
    def _check_time(self, t: float) -> None: ...

    @abstractmethod
    def _advanced(self, state: Tensor, frame: Tensor, t: float) -> Tensor: ...

    @abstractmethod
    def _solved(self, state: Tensor) -> Tensor: ...


class OnlineLegS(OnlineProjection):
    """The LegS recurrence itself, one step a frame, weighted by the timestamps.

    order: s. method: `euler` (the paper's Definition D.3), `backward`, `bilinear` or `zoh`. The coefficients
    are those of the basis on [0, t], t the last frame's time: the window grows with the stream. They equal
    `project(frames, projection_matrix(times, LegendreBasis(s, t), method))`.
    """

    def __init__(self, order: int, method: str = "bilinear"):
        super().__init__(order)
        if method not in hippo_legs.METHODS:
            raise VLFMError(f"unknown LegS method {method!r}; there are {', '.join(hippo_legs.METHODS)}")
        self.method = method

    def _check_time(self, t: float) -> None:
        if t <= 0:
            raise VLFMError(f"{self.method} divides by time: every frame must come after t = 0; this one is at {t} s")

    def _advanced(self, state: Tensor, frame: Tensor, t: float) -> Tensor:
        transition, drive = hippo_legs.legs_step(self.order, self.last_time or 0.0, t, self.method)
        return torch.matmul(transition.to(state), state) + drive.to(state)[:, None] * frame

    def _solved(self, state: Tensor) -> Tensor:
        if self.method == "euler" and self.num_frames < self.order:
            raise VLFMError(
                f"euler (the paper's recurrence) of order {self.order} saw {self.num_frames} frames, and its "
                f"transient grows until it has seen {self.order}; append more or use another method"
            )
        return state


class OnlineLeastSquares(OnlineProjection):
    """Recursive least squares on a basis of [0, T], in square-root form: R and Qᵀu of the QR factorisation so far.

    Keeping R rather than the normal equations leaves the condition number unsquared, so that the coefficients
    equal those of `projection_matrix(times, basis, "lstsq", ridge)` to rounding.

    basis: g, with its order s and duration T; times lie in [0, T]. ridge: as in `projection_matrix`.
    """

    def __init__(self, basis: Basis, ridge: float = 0.0):
        super().__init__(basis.order)
        check_ridge(ridge)
        self.basis = basis
        self.ridge = ridge
        self._triangle = torch.zeros(basis.order, basis.order, dtype=torch.float64)

    def _check_time(self, t: float) -> None:
        if not 0 <= t <= self.basis.duration * (1 + 1e-9):
            raise VLFMError(f"frame times must lie in [0, {self.basis.duration:g}] s; this one is at {t} s")

    def _advanced(self, state: Tensor, frame: Tensor, t: float) -> Tensor:
        row = self.basis.evaluate(torch.tensor([t], dtype=torch.float64))
        q, self._triangle = _triangular(torch.cat([self._triangle, row]))
        return torch.matmul(q.T.to(state), torch.cat([state, frame], 1))

    def _solved(self, state: Tensor) -> Tensor:
        if self.num_frames < self.order and not self.ridge:
            raise VLFMError(
                f"{self.num_frames} frames do not determine {self.order} coefficients: append at least "
                f"{self.order - self.num_frames} more or use a lower order"
            )
        triangle, right = self._triangle, torch.eye(self.order, dtype=torch.float64)
        if self.ridge:
            penalty = torch.diag(math.sqrt(self.num_frames * self.ridge) * self.basis.roughness)
            q, triangle = _triangular(torch.cat([triangle, penalty]))
            right = q[: self.order].T
        solve = torch.linalg.solve_triangular(triangle, right, upper=True)
        return torch.matmul(solve.to(state), state)


def _triangular(stacked: Tensor) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(stacked)
    return q, r
