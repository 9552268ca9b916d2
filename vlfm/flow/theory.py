"""The paper's lemmas as numbers measured on given latents: what the theory page plots.

Errors are root mean squares over a clip's latent entries, one value a clip, unless a function says otherwise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow.heads import closed_form_field
from vlfm.flow.legendre import LegendreBasis
from vlfm.flow.losses import velocity_mse
from vlfm.flow.path import VideoLatentPath, over_times, per_time
from vlfm.flow.projection import frame_times, project, projection_matrix, reconstruct


def frame_error(latents: Tensor, order: int, duration: float, method: str = "lstsq", ridge: float = 0.0) -> Tensor:
    """Lemma F.1's quantity: RMS of `H g(t_τ) − u_τ` at the frames, (B,). latents (B, N, *shape)."""
    times = frame_times(latents.shape[1], duration)
    weights = projection_matrix(times, order, duration, method, ridge)
    return _rms(_at(project(latents, weights), times, duration) - latents)


def held_out_error(
    latents: Tensor, order: int, duration: float, every: int = 2, method: str = "lstsq", ridge: float = 0.0
) -> Tensor:
    """Lemma 5.2's: RMS at the frames *between* the ones projected, (B,). latents (B, N, *shape).

    Every `every`-th frame is observed (the observation matrix Φ), the others are the truth compared with, as
    long as an observed frame stands on both sides.
    """
    times = frame_times(latents.shape[1], duration)
    kept = torch.arange(1, len(times) + 1) % every == 0
    between = ~kept & (torch.arange(1, len(times) + 1) > every) & (times < times[kept][-1])
    if not between.any():
        raise VLFMError(f"{len(times)} frames leave none between every {every}-th one; give more frames")
    weights = projection_matrix(times[kept], order, duration, method, ridge)
    coefficients = project(latents[:, kept], weights)
    return _rms(_at(coefficients, times[between], duration) - latents[:, between])


def timescale_error(
    latents: Tensor, order: int, duration: float, factor: int, method: str = "lstsq", ridge: float = 0.0
) -> Tensor:
    """Lemma 5.4's: relative change of H when a clip is sampled `factor` times more coarsely, (B,).

    `||H_factor − H||_F / ||H||_F`, H from all N frames and H_factor from every `factor`-th. The lemma says
    that it is 0; it is 0 when the same frames are merely played faster (the weights depend on t/T alone), and
    an error of sampling otherwise.
    """
    times = frame_times(latents.shape[1], duration)
    kept = torch.arange(1, len(times) + 1) % factor == 0
    full = project(latents, projection_matrix(times, order, duration, method, ridge))
    coarse = project(latents[:, kept], projection_matrix(times[kept], order, duration, method, ridge))
    return (coarse - full).flatten(1).norm(dim=1) / full.flatten(1).norm(dim=1)


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

    projection: ε1, `||G†u g(t) − u_t||`, what s polynomials lose even seeing every frame.
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
) -> ErrorBudget:
    """Split `||ψ_t − u_t||` as the proof of Lemma F.3 does, at the times of the frames after the lead-in.

    latents: every frame, (B, M, *shape), the dense truth. observed: (M,) booleans, Φ: the frames the path is
    built from by least squares. path: its order is s, its schedule gives σ. z: (B, *shape). prediction: Ĥ (B,
    *shape, s).
    """
    duration, order = path.duration, path.basis.order
    observed = torch.as_tensor(observed, dtype=torch.bool)
    times = frame_times(latents.shape[1], duration)
    dense = project(latents, projection_matrix(times, order, duration))
    sparse = project(latents[:, observed], projection_matrix(times[observed], order, duration))
    used = sparse if prediction is None else prediction
    # Within the lead-in the mean is scaled down on purpose, which no term of the lemma stands for.
    after = times >= path.schedule.lead_in * (1 - 1e-9)
    times = times[after]
    truth = latents[:, after]
    sigma = path.schedule.sigma(times)[0]
    noise = per_time(sigma[None].to(latents.device), truth) * over_times(z, times[None])
    by_dense, by_sparse = _at(dense, times, duration), _at(sparse, times, duration)
    by_used = by_sparse if prediction is None else _at(used, times, duration)
    return ErrorBudget(
        projection=_norm(by_dense - truth),
        noise=_norm(noise),
        interpolation=_norm(by_sparse - by_dense),
        network=_norm(by_used - by_sparse),
        total=_norm(noise + by_used - truth),
        times=times,
    )


def _at(coefficients: Tensor, times: Tensor, duration: float) -> Tensor:
    basis = LegendreBasis(coefficients.shape[-1], duration)
    return reconstruct(coefficients, basis.evaluate(times)[None])


def _rms(error: Tensor) -> Tensor:
    return error.flatten(1).square().mean(1).sqrt()


def _norm(error: Tensor) -> Tensor:
    return error.flatten(2).norm(dim=2)
