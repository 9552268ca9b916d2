"""The path of a *given* clip: what its latents are at any time, with value and derivative.

Times t are (), one time → (B, *shape); (K,), shared → (B, K, *shape); or (B, K) → (B, K, *shape). They must
lie in [0, T]: beyond, choose a tail (`vlfm.flow.tails`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow.bases import Basis
from vlfm.flow.path import per_time
from vlfm.flow.projection import check_finite, check_times, frame_times, project, projection_matrix, reconstruct
from vlfm.flow.solvers import check_query_times

PATHS = ("projected", "hybrid")


@dataclass(frozen=True)
class ProjectedPath:
    """`μ_t = H g(t)`, the paper's path (Definition D.5) on any basis. coefficients: (B, *shape, s)."""

    coefficients: Tensor
    basis: Basis

    @property
    def duration(self) -> float:
        """T, seconds."""
        return self.basis.duration

    def evaluate(self, t: Tensor) -> Tensor:
        """Latents at t."""
        times, squeeze = _query(t, self.duration, self.coefficients)
        values = reconstruct(self.coefficients, self.basis.evaluate(times))
        return values[:, 0] if squeeze else values

    def derivative(self, t: Tensor) -> Tensor:
        """Their derivative, per second."""
        times, squeeze = _query(t, self.duration, self.coefficients)
        values = reconstruct(self.coefficients, self.basis.derivative(times))
        return values[:, 0] if squeeze else values


@dataclass(frozen=True)
class HybridPath:
    """The projected path plus the residual `u_τ − μ_τ`, interpolated linearly: exact at the frames at any order.

    Before the first frame and after the last the residual is held. At a frame, where the slope jumps, the
    derivative is the one after it; at the last frame the one before it, so that the end slope is the clip's.

    projected: the clip's projected path. times: (N,), strictly increasing. residual: (B, N, *shape).
    """

    projected: ProjectedPath
    times: Tensor
    residual: Tensor

    @property
    def duration(self) -> float:
        """T, seconds."""
        return self.projected.duration

    def evaluate(self, t: Tensor) -> Tensor:
        """Latents at t."""
        times, squeeze = _query(t, self.duration, self.residual)
        values = self.projected.evaluate(times)
        left, right, share, _ = self._between(times)
        values = values + torch.lerp(left, right, per_time(share.expand(len(values), -1), left))
        return values[:, 0] if squeeze else values

    def derivative(self, t: Tensor) -> Tensor:
        """Their derivative, per second."""
        times, squeeze = _query(t, self.duration, self.residual)
        values = self.projected.derivative(times)
        left, right, _, slope = self._between(times)
        values = values + per_time(slope.expand(len(values), -1), left) * (right - left)
        return values[:, 0] if squeeze else values

    def _between(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Residuals on both sides of t (B or 1, K), the share of the right one, and d(share)/dt."""
        clips, count = self.residual.shape[:2]
        knots = self.times.to(device=t.device, dtype=t.dtype)
        if count == 1:
            only = self.residual.expand(-1, t.shape[1], *self.residual.shape[2:])
            return only, only, torch.zeros_like(t), torch.zeros_like(t)
        index = (torch.searchsorted(knots, t.contiguous(), right=True) - 1).clamp(0, count - 2)
        gap = knots[index + 1] - knots[index]
        share = ((t - knots[index]) / gap).clamp(0, 1)
        inside = (t >= knots[0]) & (t <= knots[-1])
        slope = torch.where(inside, 1 / gap, torch.zeros_like(gap))
        rows = torch.arange(clips, device=t.device)[:, None]
        columns = index.expand(clips, -1)
        return self.residual[rows, columns], self.residual[rows, columns + 1], share, slope


def clip_path(
    latents: Tensor,
    basis: Basis,
    kind: str = "hybrid",
    times: Tensor | None = None,
    method: str = "lstsq",
    ridge: float = 0.0,
) -> ProjectedPath | HybridPath:
    """The path of clips whose frames are given: latents (B, N, *shape).

    basis: g, with its order s and duration T. kind: `projected` (the paper's) or `hybrid`. times: (N,) seconds,
    default the nominal `τT/N`. method, ridge: as `projection_matrix` takes them. Raises `VLFMError` as
    `projection_matrix` and `project` do.
    """
    if kind not in PATHS:
        raise VLFMError(f"unknown path {kind!r}; there are {', '.join(PATHS)}")
    if latents.ndim < 2:
        raise VLFMError(f"latents must be (B, N, *shape); they are {tuple(latents.shape)}")
    grid = latents.shape[1] if times is None else check_times(times, basis.duration)
    weights = projection_matrix(grid, basis, method, ridge)
    projected = ProjectedPath(project(latents, weights), basis)
    return projected if kind == "projected" else hybrid(projected, latents, times)


def hybrid(projected: ProjectedPath, latents: Tensor, times: Tensor | None = None) -> HybridPath:
    """Add the interpolated residual of frames (B, N, *shape) at `times` (N,), default nominal, to a
    projected path.
    """
    if times is None:
        times = frame_times(latents.shape[1], projected.duration)
    else:
        times = check_times(times, projected.duration)
    if len(times) != latents.shape[1]:
        raise VLFMError(f"{latents.shape[1]} frames need as many times; there are {len(times)}")
    residual = latents.to(projected.coefficients.dtype) - projected.evaluate(times)
    check_finite(residual, "the residuals of")
    return HybridPath(projected, times, residual)


def _query(t: Tensor, duration: float, like: Tensor) -> tuple[Tensor, bool]:
    t = torch.as_tensor(t)
    single = t.ndim == 0
    return check_query_times(t[None] if single else t, duration, like), single
