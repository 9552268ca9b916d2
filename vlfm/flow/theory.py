"""The paper's lemmas as numbers measured on given latents: what the theory page plots.

Errors are root mean squares over a clip's latent entries, one value a clip, unless a function says otherwise.
`times` are the frames' true times, (N,) seconds; without them the frames stand at the nominal `τT/N`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow.bases import Basis
from vlfm.flow.heads import closed_form_field
from vlfm.flow.interpolation import clip_path
from vlfm.flow.losses import velocity_mse
from vlfm.flow.path import VideoLatentPath, over_times, per_time
from vlfm.flow.projection import check_times, frame_times, project, projection_matrix, reconstruct


def frame_error(
    latents: Tensor,
    basis: Basis,
    method: str = "lstsq",
    ridge: float = 0.0,
    times: Tensor | None = None,
) -> Tensor:
    """Lemma F.1's quantity: RMS of `H g(t_τ) − u_τ` at the frames, (B,). latents (B, N, *shape)."""
    times = _times(latents, basis.duration, times)
    weights = projection_matrix(times, basis, method, ridge)
    return _rms(_at(project(latents, weights), times, basis) - latents)


def held_out_error(
    latents: Tensor,
    basis: Basis,
    every: int = 2,
    method: str = "lstsq",
    ridge: float = 0.0,
    times: Tensor | None = None,
    kind: str = "projected",
) -> Tensor:
    """Lemma 5.2's: RMS at the frames *between* the ones projected, (B,). latents (B, N, *shape).

    Every `every`-th frame is observed (the observation matrix Φ), the others are the truth compared with, as
    long as an observed frame stands on both sides. kind: the path of the observed frames, `projected` (the
    paper's) or `hybrid`, which is the straight line between frames at order 1.
    """
    times = _times(latents, basis.duration, times)
    kept = every_nth(len(times), every)
    between = ~kept & (torch.arange(1, len(times) + 1) > every)
    if kept.any():
        between &= times < times[kept][-1]
    if not kept.any() or not between.any():
        raise VLFMError(f"{len(times)} frames leave none between every {every}-th one; give more frames")
    path = clip_path(latents[:, kept], basis, kind, times[kept], method, ridge)
    return _rms(path.evaluate(times[between]) - latents[:, between])


def every_nth(num_frames: int, every: int) -> Tensor:
    """Φ keeping frames n, 2n, 3n, … of N: (N,) booleans."""
    return torch.arange(1, num_frames + 1) % every == 0


def timescale_error(
    latents: Tensor,
    basis: Basis,
    factor: int,
    method: str = "lstsq",
    ridge: float = 0.0,
    times: Tensor | None = None,
) -> Tensor:
    """Lemma 5.4's: relative change of H when a clip is sampled `factor` times more coarsely, (B,).

    `||H_factor − H||_F / ||H||_F`, H from all N frames and H_factor from every `factor`-th. The lemma says
    that it is 0; it is 0 when the same frames are merely played faster (the weights depend on t/T alone), and
    an error of sampling otherwise.
    """
    times = _times(latents, basis.duration, times)
    kept = every_nth(len(times), factor)
    full = project(latents, projection_matrix(times, basis, method, ridge))
    coarse = project(latents[:, kept], projection_matrix(times[kept], basis, method, ridge))
    return _relative(coarse, full)


def dilation_error(
    latents: Tensor,
    basis: Basis,
    factor: float,
    method: str = "lstsq",
    ridge: float = 0.0,
    times: Tensor | None = None,
) -> Tensor:
    """Lemma 5.4 as LegS states it: relative change of H when the same frames play `factor` times faster, (B,).

    Frames at `t/factor` of a clip of `T/factor` seconds; 0 to rounding for every method.
    """
    times = _times(latents, basis.duration, times)
    slow = project(latents, projection_matrix(times, basis, method, ridge))
    fast = project(latents, projection_matrix(times / factor, basis.over(basis.duration / factor), method, ridge))
    return _relative(fast, slow)


def closed_form_loss(
    path: VideoLatentPath,
    coefficients: Tensor,
    z: Tensor,
    t: Tensor,
    perturbation: Tensor | float = 0.0,
) -> Tensor:
    """Theorem 4.1: the objective of Definition D.9 at the closed-form field of `H + perturbation`, a scalar.

    0 to rounding without a perturbation, larger with any. t (B,) or (B, K).
    """
    truth = path.sample(coefficients, z, t)
    field = closed_form_field(coefficients + perturbation, truth.psi, t, path)
    return velocity_mse(field, truth.velocity)


@dataclass(frozen=True)
class ErrorBudget:
    """The terms of Lemma F.3 and Theorem F.4 measured, each (B, K): a Euclidean norm over a clip's latent,
    per time.

    projection: ε1, `||G†u g(t) − u_t||`, what s functions lose even seeing every frame.
    noise: ε2, `||σ_t z||`. interpolation: ε3, `||(MG)†(Mu) g(t) − G†u g(t)||`, the price of seeing N frames.
    network: ε0, `||(Ĥ − H) g(t)||`, 0 when no prediction was given.
    total: `||ψ̂_t − u_t||`. By the triangle inequality it is at most their sum, before the decoder multiplies
    it by L0.
    times: (K,), seconds.
    """

    projection: Tensor
    noise: Tensor
    interpolation: Tensor
    network: Tensor
    total: Tensor
    times: Tensor

    @property
    def bound(self) -> Tensor:
        """ε0 + ε1 + ε2 + ε3, (B, K)."""
        return self.network + self.projection + self.noise + self.interpolation


def error_budget(
    latents: Tensor,
    observed: Tensor,
    path: VideoLatentPath,
    z: Tensor,
    prediction: Tensor | None = None,
    times: Tensor | None = None,
) -> ErrorBudget:
    """Split `||ψ_t − u_t||` as the proof of Lemma F.3 does, at the times of the frames after the lead-in.

    latents: every frame, (B, M, *shape), the dense truth. observed: (M,) booleans, Φ: the frames the path is
    built from by least squares. path: its order is s, its schedule gives σ. z: (B, *shape). prediction: Ĥ (B,
    *shape, s).
    """
    basis = path.basis
    observed = torch.as_tensor(observed, dtype=torch.bool)
    times = _times(latents, basis.duration, times)
    dense = project(latents, projection_matrix(times, basis))
    sparse = project(latents[:, observed], projection_matrix(times[observed], basis))
    used = sparse if prediction is None else prediction
    # Within the lead-in the mean is scaled down on purpose, which no term of the lemma stands for.
    after = times >= path.schedule.lead_in * (1 - 1e-9)
    times = times[after]
    truth = latents[:, after]
    sigma = path.schedule.sigma(times)[0]
    noise = per_time(sigma[None].to(latents.device), truth) * over_times(z, times[None])
    by_dense, by_sparse = _at(dense, times, basis), _at(sparse, times, basis)
    by_used = by_sparse if prediction is None else _at(used, times, basis)
    return ErrorBudget(
        projection=_norm(by_dense - truth),
        noise=_norm(noise),
        interpolation=_norm(by_sparse - by_dense),
        network=_norm(by_used - by_sparse),
        total=_norm(noise + by_used - truth),
        times=times,
    )


def lipschitz_quotient(
    decode: Callable[[Tensor], Tensor], points: Tensor, steps: Tensor, start: Tensor | None = None
) -> Tensor:
    """Assumption C.8's quotient `||D(u + δ) − D(u)|| / ||δ||`, (B,), in Euclidean norms; NaN where δ is 0.

    Any value is a lower bound of L0, whose definition is the largest over all pairs. decode: (B, *shape) →
    (B, *picture). points: u, (B, *shape). steps: δ, (B, *shape). start: D(u), if it is known already.
    """
    change = decode(points + steps) - (decode(points) if start is None else start)
    return _size(change) / _size(steps)


def steepest_step(
    decode: Callable[[Tensor], Tensor], points: Tensor, steps: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """Climb the quotient of `lipschitz_quotient` from `steps`, keeping each step's length.

    With `y = D(u + δ) − D(u)` each iteration takes δ to `Jᵀ y`, J the Jacobian at u + δ: for a linear D this is
    the power iteration for its largest singular value, and for any D the value found belongs to an actual pair of
    points. decode must be differentiable by autograd. Returns the best δ met, (B, *shape), and its quotient, (B,).
    """
    length = steps.flatten(1).norm(dim=1)
    with torch.no_grad():
        start = decode(points)
    best, found = steps.clone(), torch.full_like(length, -torch.inf)
    # The last round only scores the step that the one before it proposed.
    for iteration in range(iterations + 1):
        steps = steps.detach().requires_grad_(iteration < iterations)
        with torch.set_grad_enabled(iteration < iterations):
            change = decode(points + steps) - start
            energy = change.square().flatten(1).sum(1)
        quotient = energy.detach().sqrt() / length
        better = quotient > found
        found = torch.where(better, quotient, found)
        best = torch.where(_like(better, best), steps.detach(), best)
        if iteration < iterations:
            (gradient,) = torch.autograd.grad(energy.sum(), steps)
            norm = gradient.flatten(1).norm(dim=1)
            # Where the decoder is flat there is nothing to climb.
            moved = gradient * _like(length / norm.clamp_min(torch.finfo(norm.dtype).tiny), gradient)
            steps = torch.where(_like(norm > 0, moved), moved, steps.detach())
    return best, found


def _like(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _times(latents: Tensor, duration: float, times: Tensor | None) -> Tensor:
    if times is None:
        return frame_times(latents.shape[1], duration)
    times = check_times(times, duration)
    if len(times) != latents.shape[1]:
        raise VLFMError(f"{latents.shape[1]} frames need as many times; there are {len(times)}")
    return times


def _relative(changed: Tensor, reference: Tensor) -> Tensor:
    return _size(changed - reference) / _size(reference)


def _at(coefficients: Tensor, times: Tensor, basis: Basis) -> Tensor:
    return reconstruct(coefficients, basis.evaluate(times)[None])


def _rms(error: Tensor) -> Tensor:
    return error.flatten(1).square().mean(1).sqrt()


def _norm(error: Tensor) -> Tensor:
    norm: Tensor = error.flatten(2).norm(dim=2)
    return norm


def _size(values: Tensor) -> Tensor:
    norm: Tensor = values.flatten(1).norm(dim=1)
    return norm
