"""From noise to the flow at any set of times."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow import readout as readouts
from vlfm.flow.path import VideoLatentPath, over_times, per_time
from vlfm.flow.projection import check_finite

Predict = Callable[[Tensor, Tensor], Tensor]
PREDICTION_REMEDY = "the prediction or the noise holds NaN or infinite values; check the network and its precision"
ODE_METHODS = ("euler", "midpoint", "dopri5")
MOST_STEPS = 500  # of dopri5 to the next time asked for; a trained network's whole path takes some 130


def exponential(
    predict: Predict | Tensor,
    z: Tensor,
    path: VideoLatentPath,
    times: Tensor | Sequence[float],
    steps: int = 1,
    nodes: Sequence[float] | None = None,
) -> Tensor:
    """The flow at `times`, solved exactly between evaluations of the network.

    With Ĥ held, `dψ/dt = (σ̇/σ)(ψ − m Ĥ g) + d/dt(m Ĥ g)` has the exact solution
    `ψ_{t'} = m' μ̂_{t'} + (σ_{t'}/σ_t)(ψ_t − m μ̂_t)`, whatever the size of the step.

    predict: `(psi (B, *shape), t (B,)) → Ĥ (B, *shape, s)`, with whatever conditions it bound; or Ĥ itself.
    z: the state at t = 0, (B, *shape). Under `exact` that is the noise; under `paper`, whose mean does not
    start at 0 (D4), the true flow starts at `z + H g(0)`.
    times: (K,) for all clips or (B, K), within [0, T], in any order; a list counts as float64.
    steps: evaluations, at `0, h, …, (steps − 1) h` with `h = T/(N steps)`: spread evenly over the lead-in [0,
    T/N], where a clip is chosen among those that share a caption. 1 renders everything from one evaluation at
    t = 0.
    nodes: the evaluation times themselves instead, increasing from 0, within [0, T].

    Returns ψ, (B, K, *shape). A time between two nodes is reached from the node before it.
    """
    times = check_query_times(times, path.duration, z)
    nodes = _nodes(steps, nodes, path)
    psi, start = z, z.new_full((len(z),), nodes[0], dtype=times.dtype)
    result = z
    for index, node in enumerate(nodes):
        coefficients = _predicted(predict, psi, start, path)
        last = index == len(nodes) - 1
        if index == 0:
            result = exponential_step(coefficients, psi, start, times, path)
        elif bool((times >= node).any()):
            later = per_time(times >= node, result).bool()
            result = torch.where(later, exponential_step(coefficients, psi, start, times, path), result)
        if not last:
            end = torch.full_like(start, nodes[index + 1])
            psi, start = exponential_step(coefficients, psi, start, end[:, None], path)[:, 0], end
    return result


def exponential_step(coefficients: Tensor, psi: Tensor, start: Tensor, end: Tensor, path: VideoLatentPath) -> Tensor:
    """One exact step with Ĥ held: psi (B, *shape) at start (B,) → ψ at end (B, K): (B, K, *shape)."""
    mean_start, _ = path.scaled_mean(coefficients, start)
    mean_end, _ = path.scaled_mean(coefficients, end)
    sigma_start, _ = path.schedule.sigma(start)
    sigma_end, _ = path.schedule.sigma(end)
    return mean_end + per_time(sigma_end / sigma_start[:, None], mean_end) * over_times(psi - mean_start, end)


def ode(
    field: Predict,
    z: Tensor,
    times: Tensor | Sequence[float],
    duration: float,
    method: str = "midpoint",
    step_size: float | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """Integrate `dψ/dt = field(ψ, t)` from z at t = 0 through torchdiffeq; the paper's way of sampling.

    field: `(psi (B, *shape), t (B,)) → (B, *shape)`, per second. z: (B, *shape).
    times: (K,), strictly increasing, within [0, T]. duration: T, seconds.
    method: `euler` or `midpoint` in steps of `step_size` seconds (default: one step between consecutive
    times), or `dopri5` with tolerances rtol and atol.

    Returns (B, K, *shape). Raises `VLFMError` for times out of order, or when the solution diverges or the
    adaptive step vanishes or needs more than 500 steps to the next time, as it can under `paper`, whose σ̇/σ is
    stiff (D5), or with a network that has hardly been trained.
    """
    from torchdiffeq import odeint

    if method not in ODE_METHODS:
        raise VLFMError(f"unknown solver {method!r}; there are {', '.join(ODE_METHODS)}")
    if step_size is not None and not step_size > 0:
        raise VLFMError(f"the step size must be positive seconds; it is {step_size}")
    times = check_query_times(times, duration, z)
    if times.shape[0] != 1 and len(z) != 1:
        raise VLFMError("an ODE solver takes one list of times for all clips, (K,)")
    grid = times[0]
    if (grid.diff() <= 0).any():
        raise VLFMError("an ODE solver needs times that increase strictly; sort them and drop repeated ones")
    from_zero = bool(grid[0] == 0)
    grid = grid if from_zero else torch.cat([grid.new_zeros(1), grid])
    options: dict[str, float] = {}
    if method == "dopri5":
        options = {"max_num_steps": MOST_STEPS}
    elif step_size is not None:
        options = {"step_size": step_size}
    if len(grid) == 1:
        return z.unsqueeze(1).clone()
    try:
        states: Tensor = odeint(
            lambda t, psi: field(psi, for_network(t.expand(len(psi)), z)),
            z,
            grid,
            method=method,
            rtol=rtol,
            atol=atol,
            options=options,
        )
    except AssertionError as error:  # torchdiffeq's way to report a vanishing step, or too many
        raise VLFMError(
            f"{method} gave up: {error}. The field is stiff or not finite; use the exponential solver, "
            "a larger tolerance or a fixed step"
        ) from error
    if not torch.isfinite(states[-1]).all():
        raise VLFMError(f"{method} diverged before t = {float(grid[-1]):g} s; use a smaller step or another solver")
    return (states if from_zero else states[1:]).movedim(0, 1)


def render(
    predict: Predict | Tensor,
    z: Tensor,
    path: VideoLatentPath,
    times: Tensor | Sequence[float],
    steps: int = 1,
    readout: str = "mean",
) -> Tensor:
    """Latents of clips at any times: the exponential solver, then a readout. (B, K, *shape).

    predict, z, times, steps as in `exponential`. With one evaluation the readout `mean` is Ĥ g(t) exactly,
    and is computed as that. Raises `VLFMError` for times outside [0, T] (`vlfm.flow.tails` goes beyond), and
    for t = 0 with the readout `mean`, where m = 0, and where the result is not finite.
    """
    if readout not in readouts.READOUTS:
        raise VLFMError(f"unknown readout {readout!r}; there are {', '.join(readouts.READOUTS)}")
    times = check_query_times(times, path.duration, z)
    if readout == "mean":
        readouts.check_scale(path.schedule.mean_scale(times)[0])
        if steps == 1 and path.schedule.starts_at_noise:
            start = torch.zeros(len(z), dtype=times.dtype, device=z.device)
            latents = path.mean(_predicted(predict, z, start, path), times)[0]
            check_finite(latents, "the rendered latents of", PREDICTION_REMEDY)
            return latents
    psi = exponential(predict, z, path, times, steps)
    latents = readouts.READOUTS[readout](psi, z, times, path.schedule)
    check_finite(latents, "the rendered latents of", PREDICTION_REMEDY)
    return latents


def check_query_times(times: Tensor | Sequence[float], duration: float, like: Tensor) -> Tensor:
    """Times (K,) or (B, K) as (B or 1, K) floating point on `like`'s device, within [0, T], or
    `VLFMError`.
    """
    if not isinstance(times, Tensor):
        times = torch.as_tensor(times, dtype=torch.float64)
    dtype = times.dtype if times.is_floating_point() else torch.float64
    times = times.to(device=like.device, dtype=dtype)
    times = times[None] if times.ndim == 1 else times
    if times.ndim != 2 or times.shape[0] not in (1, len(like)):
        raise VLFMError(f"times must be (K,), or (B, K) for {len(like)} clips; they are {tuple(times.shape)}")
    slack = max(1e-9, 4 * torch.finfo(dtype).eps) * duration  # the rounding of τT/N
    if not bool(((times >= 0) & (times <= duration + slack)).all()):
        raise VLFMError(
            f"times must lie in [0, {duration:g}] s; they run from {float(times.min()):g} to "
            f"{float(times.max()):g} s. Beyond the end of a clip choose a tail (vlfm.flow.tails)"
        )
    return times


def _predicted(predict: Predict | Tensor, psi: Tensor, t: Tensor, path: VideoLatentPath) -> Tensor:
    coefficients = predict if isinstance(predict, Tensor) else predict(psi, for_network(t, psi))
    expected = (*psi.shape, path.basis.order)
    if coefficients.shape != expected:
        raise ValueError(
            f"the prediction must be coefficients (B, *shape, s), {expected}; it is {tuple(coefficients.shape)}"
        )
    return coefficients


def for_network(t: Tensor, z: Tensor) -> Tensor:
    """Times in the precision a network computes in, at least float32: solvers keep theirs in the caller's."""
    return t.to(torch.promote_types(z.dtype, torch.float32))


def _nodes(steps: int, nodes: Sequence[float] | None, path: VideoLatentPath) -> list[float]:
    if nodes is None:
        if isinstance(steps, bool) or int(steps) != steps or steps < 1:
            raise VLFMError(f"steps must be a whole number from 1 up; it is {steps}")
        return [path.schedule.lead_in * index / steps for index in range(int(steps))]
    nodes = [float(node) for node in nodes]
    rising = all(a < b for a, b in pairwise(nodes))
    if not nodes or nodes[0] != 0 or not rising or nodes[-1] > path.duration:
        raise VLFMError(f"nodes must start at 0 and increase within [0, {path.duration:g}] s; they are {nodes}")
    return nodes
