"""Training objectives. None checks for finiteness: that would make every step wait for the device."""

import torch
from torch import Tensor


def velocity_mse(
    prediction: Tensor,
    target: Tensor,
    sigma_dot: Tensor | None = None,
    floor: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """The paper's objective (Definition D.9): mean over clips, times and latent entries of `|F − dψ/dt|²`.

    prediction, target: (B, [K,] *shape), per unit of time.
    sigma_dot: (B,) or (B, K), dσ/dt at the same times: divides each time's error by `σ̇² + floor²`, which
    takes the schedule's energy, about 98 % of the target's under `paper`, out of the weighting (D5). Without
    it the loss is plain.
    floor: > 0, per unit of time; σ̇ vanishes at the frames, where the division would otherwise fail.
    reduction: `mean` for a scalar, `none` for one value a clip, (B,).
    """
    check_same_shape(prediction, target)
    error = (prediction - target).square()
    if sigma_dot is None:
        return _reduced(error, reduction)
    if not floor > 0:
        raise ValueError(f"the floor must be positive: dσ/dt is 0 at the frames; it is {floor}")
    per_time = error.flatten(sigma_dot.ndim).mean(-1)
    return _reduced(per_time / (sigma_dot.to(error.dtype).square() + floor**2), reduction)


def parseval(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """`||Ĥ − H||²`: the error of the mean path averaged over the basis's span analytically (Parseval, D2).

    prediction, target: (B, *shape, s). Summed over orders, averaged over positions: equal to the time average
    of the mean squared error of `Ĥ g(t)` against `H g(t)`, so comparable with an MSE of latents.
    reduction: `mean` for a scalar, `none` for one value a clip, (B,).
    """
    check_same_shape(prediction, target)
    return _reduced((prediction - target).square().sum(-1), reduction)


def _reduced(error: Tensor, reduction: str) -> Tensor:
    """Errors (B, …), averaged over everything, or over all but the clips."""
    per_clip = error.flatten(1).mean(-1) if error.ndim > 1 else error
    if reduction == "none":
        return per_clip
    if reduction == "mean":
        return per_clip.mean()
    raise ValueError(f"unknown reduction {reduction!r}; there are mean and none")


def check_same_shape(prediction: Tensor, target: Tensor) -> None:
    """Raises `ValueError`: broadcasting would average the wrong thing in silence, an empty batch nothing
    (NaN).
    """
    if prediction.shape != target.shape:
        raise ValueError(f"shapes differ: prediction {tuple(prediction.shape)}, target {tuple(target.shape)}")
    if prediction.numel() == 0:
        raise ValueError(f"a loss needs at least one value; the batch is empty, {tuple(prediction.shape)}")
    if not torch.is_floating_point(prediction):
        raise ValueError(f"losses need floating point; the prediction is {prediction.dtype}")
