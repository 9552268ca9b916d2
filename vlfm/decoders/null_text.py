"""Null-text optimisation: a guided generation that lands where an inversion started.

Mokady et al., "Null-text Inversion for Editing Real Images using Guided Diffusion Models" (CVPR 2023). DDIM inversion
at guidance 1 gives a trajectory, the pivot. Classifier-free guidance leads away from it; an empty-caption embedding of
its own for every step, optimised to bring that step back to the pivot, keeps the guided walk on it.

The paper optimises per image. Here one embedding a step serves all frames of a clip: the store holds one set a clip
instead of one a frame, and frames between two given ones, which have no pivot of their own, can be generated with it.
A clip of one frame is the paper's case.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from diffusers import DDIMScheduler

from vlfm.decoders import ddim

# (state (B, C, h, w), timestep without dimensions, embeddings (B or 1, L, D)) → model output, float32.
PromptedPredictor = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

LEARNING_RATE = 1e-2  # of Adam at the first step; it falls to half at the last, as in the authors' code
TOLERANCE = 1e-5  # squared error at which a step is left: at the first step …
SLACK = 1e-3  # … and what has been added to it by the last: the authors' 2e-5 a step, at their 50 steps


def guided(
    predict: PromptedPredictor, captions: torch.Tensor, null_text: torch.Tensor, guidance: float
) -> ddim.NoisePredictor:
    """ε(∅) + w (ε(caption) − ε(∅)) for one walk of `ddim.generate`, whose i-th call takes the i-th ∅.

    Args:
        captions: (B, L, D), or (1, L, D) for all alike.
        null_text: (K, L, D), one a step walked, in the order of generation.
        guidance: w.
    """
    following = iter(null_text)

    def noise(state: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        unconditional = predict(state, timestep, next(following)[None])
        return unconditional + guidance * (predict(state, timestep, captions) - unconditional)

    return noise


def optimise(
    predict: PromptedPredictor,
    pivots: Sequence[torch.Tensor],
    caption: torch.Tensor,
    empty: torch.Tensor,
    scheduler: DDIMScheduler,
    guidance: float,
    iterations: int,
    *,
    steps: int | None = None,
    chunk: int | None = None,
    learning_rate: float = LEARNING_RATE,
    tolerance: float = TOLERANCE,
    slack: float = SLACK,
) -> torch.Tensor:
    """The empty embedding of every step walked, (K, L, D) float32 in the order of generation, for one clip.

    A step starts from where the guided walk has got to and from the embedding of the step before; its squared error,
    averaged over frames, channels and positions, goes down by Adam. It costs up to 3 · iterations + 2 evaluations of
    the network a frame. Only the embedding has a gradient.

    Args:
        pivots: the states of `ddim.trajectory` at guidance 1 with the caption, latents first: K + 1 of
            (N, C, h, w).
        caption, empty: embeddings, (L, D).
        guidance: w, above 1.
        iterations: at most that many a step; 0 leaves `empty`.
        steps: of the walk to noise, of which the K are the first; None where they are all.
        chunk: frames in one pass with gradients, None for all; halved where the device runs out of memory.
        tolerance, slack: a step is left when its error is below `tolerance + slack · (share of the steps done)`.
    """
    walked = len(pivots) - 1
    forward = DDIMScheduler.from_config(scheduler.config)
    forward.set_timesteps(steps or walked)
    state, null = pivots[-1].float(), empty.float()
    chunk = chunk or len(state)
    optimised = []
    for index, timestep in enumerate(forward.timesteps.tolist()[-walked:]):
        advance = partial(_advance, predict, forward, timestep, guidance)
        with torch.no_grad():
            conditional = torch.cat([_at(predict, timestep, part, caption) for part in state.split(chunk)])
        target = pivots[walked - 1 - index].float()
        null = null.detach().clone().requires_grad_()
        adam = torch.optim.Adam([null], lr=learning_rate * (1 - index / (2 * walked)))
        for _ in range(iterations):
            error, null.grad, chunk = _gradient(advance, state, conditional, target, null, chunk)
            if error < tolerance + slack * index / walked:
                break
            adam.step()
        null = null.detach()
        with torch.no_grad():
            parts = zip(state.split(chunk), conditional.split(chunk), strict=True)
            state = torch.cat([advance(part, seen, null) for part, seen in parts])
        optimised.append(null)
    return torch.stack(optimised)


def _at(predict: PromptedPredictor, timestep: int, state: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    return predict(state, torch.full((), timestep, device=state.device), embedding[None])


def _advance(
    predict: PromptedPredictor,
    scheduler: DDIMScheduler,
    timestep: int,
    guidance: float,
    state: torch.Tensor,
    conditional: torch.Tensor,
    null: torch.Tensor,
) -> torch.Tensor:
    """One guided DDIM step; the output with the caption is given, since it does not depend on `null`."""
    unconditional = _at(predict, timestep, state, null)
    return scheduler.step(unconditional + guidance * (conditional - unconditional), timestep, state).prev_sample


def _gradient(
    advance: Callable[..., torch.Tensor],
    state: torch.Tensor,
    conditional: torch.Tensor,
    target: torch.Tensor,
    null: torch.Tensor,
    chunk: int,
) -> tuple[float, torch.Tensor, int]:
    """The squared error of a step, its gradient in `null`, and how many frames went through at once."""
    while True:
        error, gradient = 0.0, torch.zeros_like(null)
        try:
            with torch.enable_grad():
                for part, seen, goal in zip(
                    state.split(chunk), conditional.split(chunk), target.split(chunk), strict=True
                ):
                    loss = (advance(part, seen, null) - goal).square().sum() / target.numel()
                    gradient += torch.autograd.grad(loss, null)[0]
                    error += loss.item()
            return error, gradient, chunk
        except torch.OutOfMemoryError:
            if chunk == 1:
                raise
        # Not in the handler: the exception holds on to what did not fit.
        chunk //= 2
