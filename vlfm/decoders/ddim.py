"""DDIM, both ways: the image ↔ noise map that turns a diffusion model into an invertible decoder.

The update formulas are diffusers' own (`DDIMScheduler`, `DDIMInverseScheduler`); this module walks them.
The state stays in float32 whatever the network runs in: half precision there costs more than it saves. How far a
walk goes is said by its depth, see `vlfm.decoders.inversion_depth`.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from vlfm.decoders.inversion_depth import walked_steps

NoisePredictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def trajectory(
    predict: NoisePredictor,
    latents: torch.Tensor,
    scheduler: DDIMScheduler,
    steps: int,
    refine: int = 0,
    depth: float = 1.0,
) -> Iterator[torch.Tensor]:
    """The states that `invert` passes, (B, C, h, w), the latents themselves first: one more than steps are walked."""
    inverse = DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(steps)
    state = latents.float()
    yield state
    walked = walked_steps(len(inverse.timesteps), depth)
    for timestep, on_device in islice(_timesteps(inverse, state.device), walked):
        following = inverse.step(predict(state, on_device), timestep, state).prev_sample
        for _ in range(refine):
            following = _retraced(inverse, predict(following, on_device), timestep, state)
        state = following
        yield state


def invert(
    predict: NoisePredictor,
    latents: torch.Tensor,
    scheduler: DDIMScheduler,
    steps: int,
    refine: int = 0,
    depth: float = 1.0,
) -> torch.Tensor:
    """Walk latents (B, C, h, w) to their noise, u = D⁻¹(V) in the paper's terms.

    Plain DDIM inversion evaluates the noise at the state a step starts from, generation at the state it leads
    to. Each of the `refine` fixed-point iterations repeats the evaluation at the step's own result, so that
    generation retraces the inversion ever more exactly.

    Args:
        predict: (state, timestep) → model output, both float32; the timestep has no dimensions and is on the
            state's device.
        scheduler: the model's own; its configuration, not the inverse scheduler's class defaults (which clip
            the sample), decides the noise levels.
        steps: of the walk to noise.
        depth: the share of it that is walked.
    """
    return deque(trajectory(predict, latents, scheduler, steps, refine, depth), maxlen=1).pop()


@torch.no_grad()
def generate(
    predict: NoisePredictor, noise: torch.Tensor, scheduler: DDIMScheduler, steps: int, depth: float = 1.0
) -> torch.Tensor:
    """Walk noise (B, C, h, w), or a state at `depth`, to latents with deterministic DDIM (η = 0): undoes `invert`."""
    forward = DDIMScheduler.from_config(scheduler.config)
    forward.set_timesteps(steps)
    state = noise.float()
    skipped = len(forward.timesteps) - walked_steps(len(forward.timesteps), depth)
    for timestep, on_device in islice(_timesteps(forward, state.device), skipped, None):
        state = forward.step(predict(state, on_device), timestep, state).prev_sample
    return state


def _retraced(inverse: DDIMInverseScheduler, output: torch.Tensor, timestep: int, state: torch.Tensor) -> torch.Tensor:
    """The state that DDIM, given the model's `output` there, takes to `state`.

    For a model that predicts noise, this is diffusers' inverse step. For one that predicts v = cos φ · ε − sin φ · x₀
    it is not: the inverse step turns v into noise at the level φ of `state`, generation at the level φ' that it starts
    from. With Δ = φ' − φ the inverse step gives `cos Δ · state + sin Δ · v`, but what leads back is
    `(state + sin Δ · v) / cos Δ`, and refining the former does not get there.
    """
    reached = inverse.step(output, timestep, state).prev_sample
    if inverse.config.prediction_type != "v_prediction":
        return reached
    source = timestep - inverse.config.num_train_timesteps // inverse.num_inference_steps
    here = inverse.alphas_cumprod[source] if source >= 0 else inverse.initial_alpha_cumprod
    there = inverse.alphas_cumprod[timestep]
    cosine = ((here * there).sqrt() + ((1 - here) * (1 - there)).sqrt()).item()
    return (reached + (1 - cosine) * state) / cosine


def _timesteps(
    scheduler: DDIMScheduler | DDIMInverseScheduler, device: torch.device
) -> Iterator[tuple[int, torch.Tensor]]:
    """Each timestep for the scheduler, whose tables lie on the CPU, and for the network.

    A tensor on a GPU would make every step of the scheduler wait for it, one on the CPU every call of the network.
    """
    return zip(scheduler.timesteps.tolist(), scheduler.timesteps.to(device), strict=True)
