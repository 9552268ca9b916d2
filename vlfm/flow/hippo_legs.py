"""HiPPO-LegS: the matrices A and B, and one step of each discretisation of `dc/dt = −(A/t) c + (1/t) B u`.

Indices run from **0** (D1: the paper writes `[s]`, and only n = 0 … s−1 makes B match the basis).
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

METHODS = ("euler", "backward", "bilinear", "zoh")


def legs_matrices(order: int) -> tuple[Tensor, Tensor]:
    """A (s, s) and B (s,) of Definitions D.1 and D.2, float64.

    `A[n, k] = √((2n+1)(2k+1))` for n > k, `n + 1` on the diagonal, 0 above; `B[n] = √(2n+1)`.
    """
    a, b = _matrices(order)
    return a.clone(), b.clone()


@lru_cache
def _matrices(order: int) -> tuple[Tensor, Tensor]:
    n = torch.arange(order, dtype=torch.float64)
    b = torch.sqrt(2 * n + 1)
    return torch.tril(torch.outer(b, b), -1) + torch.diag(n + 1), b


def legs_step(order: int, start: float, end: float, method: str) -> tuple[Tensor, Tensor]:
    """One LegS step over the cell (start, end]: `c(end) = Ā c(start) + b̄ u`, u being the frame at `end`.

    With `r = (end − start)/end`, which is 1/τ for the nominal frames:

    - `euler`: `Ā = I − rA`, `b̄ = rB`. Definition D.3, the paper's recurrence. The main text divides by τ one
      index too early (by zero at the first frame); the appendix, followed here, is right (D1).
    - `backward`: `Ā = (I + rA)⁻¹`, `b̄ = Ā rB`.
    - `bilinear`: `Ā = (I + rA/2)⁻¹ (I − rA/2)`, `b̄ = (I + rA/2)⁻¹ rB`.
    - `zoh`: the exact solution with u held over the cell; in log time the system does not vary, so
      `Ā = expm(−A log(end/start))`, `b̄ = A⁻¹ (I − Ā) B`. From start = 0 the limit is `Ā = 0`, `b̄ = A⁻¹B =
      e₀`.

    At the nominal frames all four converge to the continuous projection at first order in 1/N, since a cell is
    stood for by the frame at its end; `zoh` alone is of second order for frames sampled at the middle of their
    cells. The public HiPPO code takes `log((τ+1)/τ)` for `zoh`, one cell late: RMS error 0.042 against 0.028 at
    48 frames of order 16 (`benchmarks/results/projection.json`).

    Returns Ā (s, s) and b̄ (s,), float64. Needs `0 ≤ start < end`.
    """
    a, b = _matrices(order)
    eye = torch.eye(order, dtype=torch.float64)
    r = (end - start) / end
    if method == "euler":
        return eye - r * a, r * b
    if method == "backward":
        return _solve(eye + r * a, eye), _solve(eye + r * a, r * b[:, None])[:, 0]
    if method == "bilinear":
        left = eye + (r / 2) * a
        return _solve(left, eye - (r / 2) * a), _solve(left, r * b[:, None])[:, 0]
    if method == "zoh":
        if start == 0:
            return torch.zeros_like(a), eye[0].clone()
        transition = torch.linalg.matrix_exp(-math.log(end / start) * a)
        return transition, _solve(a, (b - transition @ b)[:, None])[:, 0]
    raise ValueError(f"unknown LegS discretisation {method!r}; there are {', '.join(METHODS)}")


def _solve(lower: Tensor, right: Tensor) -> Tensor:
    solution: Tensor = torch.linalg.solve_triangular(lower, right, upper=False)
    return solution
