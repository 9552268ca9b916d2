"""From a point of the flow to the latent that is decoded."""

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow.path import over_times, per_time
from vlfm.flow.schedules import Schedule


def mean(psi: Tensor, z: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """`û_t = (ψ_t − σ_t z) / m(t)`: the noise is known, so it is taken out (the default).

    psi (B, [K,] *shape), z (B, *shape), t (B,) or (B, K) → psi's shape. Raises `VLFMError` where m(t) = 0,
    that is at t = 0 under `exact`, where ψ is pure noise and holds no latent.
    """
    scale, _ = schedule.mean_scale(t)
    check_scale(scale)
    sigma, _ = schedule.sigma(t)
    return (psi - per_time(sigma, psi) * over_times(z, t)) / per_time(scale, psi)


def sample(psi: Tensor, z: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """ψ_t itself, noise included: the paper's readout."""
    return psi


READOUTS = {"mean": mean, "sample": sample}


def check_scale(scale: Tensor) -> None:
    """Raises `VLFMError` if the mean's scale is 0 anywhere. Synchronises."""
    if torch.any(scale == 0):
        raise VLFMError(
            "the readout `mean` divides by m(t), which is 0 at t = 0: there the flow is pure noise. "
            "Ask for times after 0, or use the readout `sample`"
        )
