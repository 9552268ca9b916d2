"""From the latents of a clip's frames to its coefficients H: every method is one weight matrix."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from vlfm.errors import VLFMError
from vlfm.flow import hippo_legs
from vlfm.flow.bases import Basis, LegendreBasis
from vlfm.flow.bases.base import check_duration, check_num_frames

METHODS = (*hippo_legs.METHODS, "lstsq")

# Past this, noise midway between irregular frames grows tenfold whatever the order is.
AMPLIFICATION_WARNED = 10.0


LATENTS_REMEDY = "their latents hold NaN or infinite values, or overflow; drop or invert those clips again"


class ProjectionWarning(UserWarning):
    """The projection is exact enough at the frames but amplifies noise between them."""


def frame_times(num_frames: int, duration: float) -> Tensor:
    """The nominal frame times `t_τ = τ T / N`, τ = 1 … N: (N,) float64, seconds. The last is exactly T."""
    check_duration(duration)
    check_num_frames(num_frames)
    times = torch.arange(1, int(num_frames) + 1, dtype=torch.float64) * duration / int(num_frames)
    times[-1] = duration
    return times


def observed_times(mask: Sequence[bool] | Tensor, duration: float) -> Tensor:
    """The times of the frames that an observation matrix Φ (Eq. 1, Definition C.3) keeps.

    mask: (M,) booleans, true where the frame at `τ T / M` was observed. Returns (N,) float64, N the number
    kept: project only the latents of those frames, with the weights of these times.
    """
    mask = torch.as_tensor(mask, dtype=torch.bool).cpu()
    if mask.ndim != 1 or not mask.any():
        raise VLFMError("no frame is observed: the mask must be a flat list with at least one true entry")
    return frame_times(len(mask), duration)[mask]


def check_times(times: Tensor | Sequence[float], duration: float) -> Tensor:
    """`times` as (N,) float64, or `VLFMError` unless finite, strictly increasing and within [0, T]."""
    times = torch.as_tensor(times, dtype=torch.float64).detach().cpu()
    if times.ndim != 1 or len(times) == 0:
        raise VLFMError(f"frame times must be a flat list, not empty; got shape {tuple(times.shape)}")
    if not torch.isfinite(times).all():
        raise VLFMError("frame times must be finite seconds; some are NaN or infinite")
    if (times.diff() <= 0).any():
        at = int((times.diff() <= 0).nonzero()[0]) + 1
        raise VLFMError(
            f"frame times must increase strictly: time {at} is {times[at]:g} s after {times[at - 1]:g} s; "
            "sort the frames and drop repeated ones"
        )
    slack = 1e-9 * duration  # the rounding of τT/N
    if times[0] < 0 or times[-1] > duration + slack:
        raise VLFMError(f"frame times must lie in [0, {duration:g}] s; they run from {times[0]:g} to {times[-1]:g} s")
    return times


def check_ridge(ridge: float) -> None:
    """Raises `VLFMError` unless `ridge` is finite and at least 0."""
    if not (math.isfinite(ridge) and ridge >= 0):
        raise VLFMError(f"the ridge must be finite and at least 0; it is {ridge}")


def projection_matrix(
    times_or_num_frames: int | Tensor | Sequence[float],
    basis: Basis,
    method: str = "lstsq",
    ridge: float = 0.0,
) -> Tensor:
    """The weights W with `H = uᵀ W`: (N, s), float64, on the CPU. They depend on no latent: make them once.

    times_or_num_frames: the number of frames N at the nominal times `τT/N`, or their times in seconds
    (variable rate, missing frames: the observation matrix Φ of Eq. 1), strictly increasing in [0, T].
    basis: g, with its order s and duration T.
    method:

    - `lstsq`: least squares at the frames, `(MG)†(Mu)`, which is what the proof of Lemma F.3 uses, not the
      recurrence (D1). ridge ≥ 0 adds `ridge · Σ_n r_n² ||H_n||²` to the mean squared error at the frames, r the
      basis's `roughness`, so that rough orders pay most.
    - `euler`: the paper's recurrence (Definition D.3); `backward`, `bilinear`, `zoh`: the same LegS system
      discretised stably (`vlfm.flow.hippo_legs`). Cells are weighted by the timestamps, and the last frame is held
      to T when it sits before T. These need every time > 0, and give the coefficients of Legendre polynomials.

    Raises `VLFMError` for `euler`, or `lstsq` without a ridge, with s > N, a recurrence on another basis than
    Legendre's, times that do not increase or leave [0, T], and numbers out of range. Warns (`ProjectionWarning`) with
    the measured amplification when `lstsq` is used above the basis's `safe_order` (Legendre: 2√N), or when frames are
    placed so that it exceeds 10. A ridge silences it as long as the amplification stays ≤ 1.
    """
    if isinstance(times_or_num_frames, int):
        times = frame_times(times_or_num_frames, basis.duration)
    else:
        times = check_times(times_or_num_frames, basis.duration)
    if method not in METHODS:
        raise VLFMError(f"unknown projection {method!r}; there are {', '.join(METHODS)}")
    check_ridge(ridge)
    if method == "lstsq":
        return _least_squares(times, basis, ridge)
    if ridge:
        raise VLFMError(f"a ridge belongs to lstsq alone, not to {method}; set it to 0")
    if not isinstance(basis, LegendreBasis):
        raise VLFMError(
            f"{method} is a recurrence for Legendre polynomials, not for {basis.plural}; "
            "project with lstsq, or take the basis legendre"
        )
    return _recurrence(times, basis.order, basis.duration, method)


def amplification(weights: Tensor, times: Tensor, basis: Basis) -> float:
    """Largest standard deviation midway between frames when every frame carries independent unit noise.

    weights: (N, s), for this basis. times: (N,). 1 means that the gaps are as noisy as the frames; with one frame it
    is 0.
    """
    if len(times) < 2:
        return 0.0
    midway = (times[1:] + times[:-1]) / 2
    responses = basis.evaluate(midway) @ weights.T
    return float(responses.norm(dim=1).max())


def project(latents: Tensor, weights: Tensor, out: Tensor | None = None) -> Tensor:
    """`H = uᵀ W` for a batch of clips: latents (B, N, *shape) → H (B, *shape, s), one matrix product.

    weights: (N, s) of `projection_matrix`, cast to the latents' device and dtype. Half-precision latents are
    projected, and H returned, in float32. An empty batch gives an empty H.
    out: an H returned earlier for as many clips, whose memory is used again: for large batches fresh memory
    costs as much as the product.

    H is a view with the orders outside the positions in memory, (B, s, *shape), which is how the product
    comes without a transposition; `.contiguous()` copies it.

    Raises `VLFMError` if the result is not finite, naming the clips: a NaN or an infinity among the latents
    always reaches H, which is N/s times smaller than they are, so it is H that is checked. This is the edge
    where finiteness is checked, at the price of one synchronisation; nothing downstream checks it again.
    """
    if latents.ndim < 2 or weights.ndim != 2 or latents.shape[1] != len(weights):
        raise VLFMError(
            f"latents (B, N, *shape) and weights (N, s) disagree about the frames: "
            f"latents {tuple(latents.shape)}, weights {tuple(weights.shape)}"
        )
    if not latents.is_floating_point():
        raise VLFMError(f"latents must be floating point; they are {latents.dtype}")
    dtype = torch.promote_types(latents.dtype, torch.float32)
    weights = weights.to(device=latents.device, dtype=dtype)
    clips, frames, *shape = latents.shape
    order = weights.shape[1]
    buffer = None
    if out is not None:
        buffer = out.movedim(-1, 1)
        if buffer.shape != (clips, order, *shape) or buffer.dtype != dtype or not buffer.is_contiguous():
            raise ValueError("`out` must be an H that `project` returned for latents of this shape and dtype")
        buffer = buffer.view(clips, order, math.prod(shape))
    with torch.autocast(latents.device.type, enabled=False):
        flat = latents.to(dtype).reshape(clips, frames, math.prod(shape))
        coefficients = torch.bmm(weights.T.expand(clips, -1, -1), flat, out=buffer)
    check_finite(coefficients, "the coefficients of")
    return coefficients.view(clips, order, *shape).movedim(1, -1)


def reconstruct(coefficients: Tensor, basis_values: Tensor) -> Tensor:
    """`H g`: coefficients (B, *shape, s) at basis values g.

    g (s,): the same time for every clip → (B, *shape). g (B, s): one time a clip → (B, *shape).
    g (B, K, s), or (1, K, s) to share the times → (B, K, *shape). Computed outside autocast, in H's dtype.
    """
    shape = coefficients.shape[1:-1]
    clips, order = coefficients.shape[0], coefficients.shape[-1]
    g = basis_values.to(device=coefficients.device, dtype=coefficients.dtype)
    if g.shape[-1] != order or g.ndim > 3 or (g.ndim > 1 and g.shape[0] not in (1, clips)):
        raise ValueError(
            f"basis values {tuple(g.shape)} do not fit coefficients {tuple(coefficients.shape)}: "
            "they must be (s,), (B, s) or (B, K, s)"
        )
    many = g.ndim == 3
    g = g if many else g.reshape(-1, 1, order)
    with torch.autocast(coefficients.device.type, enabled=False):
        flat = coefficients.movedim(-1, 1).reshape(clips, order, math.prod(shape))
        values = torch.matmul(g.expand(clips, -1, -1), flat)
    return values.reshape(clips, g.shape[1], *shape) if many else values.reshape(clips, *shape)


def check_finite(values: Tensor, what: str, remedy: str = LATENTS_REMEDY) -> None:
    """`VLFMError` naming the clips (first axis) of `values` that hold a NaN or an infinity. Synchronises."""
    # A sum is one pass with nothing allocated; only an overflow can make it infinite without cause.
    if torch.isfinite(values.sum()):
        return
    bad = (~torch.isfinite(values.flatten(1))).any(1).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(map(str, bad[:8])) + (" …" if len(bad) > 8 else "")
        raise VLFMError(f"{what} {len(bad)} of {len(values)} clips are not finite (batch index {shown}): {remedy}")


def _least_squares(times: Tensor, basis: Basis, ridge: float) -> Tensor:
    count, order = len(times), basis.order
    safe = basis.safe_order(count)
    if order > count and not ridge:
        raise VLFMError(
            f"lstsq with order {order} on {count} frames has no unique solution: N frames fix at most N "
            f"coefficients; use an order of at most {count}, and at most {safe} to stay sane between frames"
        )
    design = basis.evaluate(times)
    if ridge:
        design = torch.cat([design, torch.diag(math.sqrt(count * ridge) * basis.roughness)])
    q, r = torch.linalg.qr(design)
    # W = Q R⁻ᵀ: no normal equations, whose condition number would be squared.
    weights: Tensor = torch.linalg.solve_triangular(r, q.T, upper=True).T[:count].contiguous()
    gain = amplification(weights, times, basis)
    if (order > safe and (not ridge or gain > 1)) or gain > AMPLIFICATION_WARNED:
        warnings.warn(
            f"lstsq with {order} {basis.plural} on {count} frames: noise of the frames is amplified {gain:.3g} times "
            f"midway between them (measured). Up to order {safe} it is safe on evenly spaced frames; lower the "
            "order or raise the ridge",
            ProjectionWarning,
            stacklevel=3,
        )
    return weights


def _recurrence(times: Tensor, order: int, duration: float, method: str) -> Tensor:
    count = len(times)
    if method == "euler" and order > count:
        raise VLFMError(
            f"euler (the paper's recurrence) with order {order} on {count} frames explodes: step τ "
            f"multiplies mode n by 1 − (n+1)/τ, which grows until τ ≥ s; use an order of at most {count}, "
            "or another method"
        )
    if times[0] <= 0:
        raise VLFMError(f"{method} divides by time: every frame must come after t = 0; lstsq takes one at 0")
    ends = times.tolist()
    cells = list(zip([0.0, *ends[:-1]], ends, range(count), strict=True))
    if duration - ends[-1] > 1e-9 * duration:
        cells.append((ends[-1], duration, count - 1))
    weights = torch.zeros(count, order, dtype=torch.float64)
    # From the last cell back: the product of the later transitions is one s × s matrix, not N rows to move a step.
    later = torch.eye(order, dtype=torch.float64)
    for start, end, frame in reversed(cells):
        transition, drive = hippo_legs.legs_step(order, start, end, method)
        weights[frame] += later @ drive
        later = later @ transition
    return weights
