"""`inversion.depth`: how far the path lives on the way from the picture's latents, 0, to their noise, 1.

Depth is a share of the generative model's own time. The full walk of `inversion.steps` steps stays as it is, its step
sizes and its noise levels with it, and is left at the step that is nearest to that time: a state at some depth is one
that the full walk passes, and what is known of round trips over the full walk (refinements, null text) holds for each
step that is left of it. So depth acts in steps, and depth above 0 walks at least one. At 0 there is no walk: the
latents are the autoencoder's and no network is evaluated, neither on the way there nor back.

Why not a noise level: each step ends at one of the levels that the network was trained at, so that a level asked for
would be rounded to a step as well, on a scale of its own for every model.

DDIM's steps are even in time, so that of n steps the first `depth · n`, rounded, are walked. After k of them the state
is √ᾱ x + √(1 − ᾱ) ε, ᾱ the scheduler's `alphas_cumprod` at the timestep that the k-th leads to. Of unit variance it
stays of unit variance, whatever the depth. Stable Diffusion's levels, which the embedded decoder shares, in 20 steps:

    depth       0     1/4   1/2   3/4   1
    √ᾱ          1     0.87  0.59  0.29  0.09
    √(1 − ᾱ)    0     0.50  0.81  0.96  1.00

A rectified flow's time is σ itself, its state (1 − σ) x + σ ε, and its steps are seldom even: see
`vlfm.decoders.rectified_flow.up_to`.
"""


def walked_steps(steps: int, depth: float) -> int:
    """How many of DDIM's `steps` are walked at a depth in [0, 1], halves rounded up."""
    return max(1, int(depth * steps + 0.5)) if depth else 0
