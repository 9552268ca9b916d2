"""DDIM, both ways: the image ↔ noise map that turns a diffusion model into an invertible decoder.

The update formulas are diffusers' own (`DDIMScheduler`, `DDIMInverseScheduler`); this module walks them.
The state stays in float32 whatever the network runs in: half precision there costs more than it saves.
"""

from collections.abc import Callable

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

NoisePredictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def invert(
    predict: NoisePredictor, latents: torch.Tensor, scheduler: DDIMScheduler, steps: int, refine: int = 0
) -> torch.Tensor:
    """Walk latents (B, C, h, w) to their noise, u = D⁻¹(V) in the paper's terms.

    Plain DDIM inversion evaluates the noise at the state a step starts from, generation at the state it leads
    to. Each of the `refine` fixed-point iterations repeats the evaluation at the step's own result, so that
    generation retraces the inversion ever more exactly.

    Args:
        predict: (state, timestep) → model output, both float32.
        scheduler: the model's own; its configuration, not the inverse scheduler's class defaults (which clip
            the sample), decides the noise levels.
    """
    inverse = DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(steps)
    state = latents.float()
    for timestep in inverse.timesteps:
        following = state
        for _ in range(1 + refine):
            following = inverse.step(predict(following, timestep), timestep, state).prev_sample
        state = following
    return state


@torch.no_grad()
def generate(
    predict: NoisePredictor, noise: torch.Tensor, scheduler: DDIMScheduler, steps: int
) -> torch.Tensor:
    """Walk noise (B, C, h, w) to latents with deterministic DDIM (η = 0): the inverse of `invert`."""
    forward = DDIMScheduler.from_config(scheduler.config)
    forward.set_timesteps(steps)
    state = noise.float()
    for timestep in forward.timesteps:
        state = forward.step(predict(state, timestep), timestep, state).prev_sample
    return state
