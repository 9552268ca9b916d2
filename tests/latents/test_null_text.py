"""Null-text optimisation, against predictors whose optimum is known and on a small real U-Net."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_config
from vlfm.errors import VLFMError
from vlfm.latents import inversion, null_text
from vlfm.latents.embedded import new_scheduler

STEPS = 5


def linear(state, timestep, embeddings):
    """An output that moves with the embedding, one number of it a position: (1, 1, 4) ↔ (1, 2, 2)."""
    return 0.3 * state + embeddings.reshape(1, 1, 2, 2)


def walk(predict, pivots, caption, null, guidance):
    """The guided walk from the pivots' noise, back to latents."""
    noise = null_text.guided(predict, caption[None], null, guidance)
    return inversion.generate(noise, pivots[-1], new_scheduler(), len(null))


def error(states, truth):
    return (states - truth).square().mean().item()


@pytest.fixture
def trajectory():
    latents = torch.randn(3, 1, 2, 2)
    caption = torch.randn(1, 4)
    pivots = list(inversion.trajectory(lambda x, t: linear(x, t, caption), latents, new_scheduler(), STEPS, refine=20))
    return latents, caption, pivots


def test_on_its_own_trajectory_the_optimum_is_the_caption(trajectory):
    latents, caption, pivots = trajectory
    null = null_text.optimise(
        linear,
        pivots,
        caption,
        torch.zeros(1, 4),
        new_scheduler(),
        guidance=4.0,
        iterations=600,
        learning_rate=0.05,
        tolerance=1e-12,
        slack=0,
    )
    assert null.shape == (STEPS, 1, 4)
    assert (null - caption).abs().max() < 2e-3
    assert error(walk(linear, pivots, caption, null, 4.0), latents) < 1e-6
    assert error(walk(linear, pivots, caption, torch.zeros_like(null), 4.0), latents) > 1e-2


def test_frames_that_share_an_embedding_get_the_mean_of_their_optima():
    guidance, frames = 3.0, 4
    caption = torch.randn(1, 4)
    start, end = torch.randn(frames, 1, 2, 2), torch.randn(frames, 1, 2, 2)
    forward = DDIMScheduler.from_config(new_scheduler().config)
    forward.set_timesteps(2)
    timestep = forward.timesteps[0]
    # The step is affine in the output ε: end = base + slope · ε, and ε = 0.3 z + ∅ + w (c − ∅).
    base = forward.step(torch.zeros_like(start), timestep, start).prev_sample
    slope = forward.step(torch.ones_like(start), timestep, start).prev_sample - base
    needed = (end - base) / slope - 0.3 * start
    optima = (needed - guidance * caption.reshape(1, 1, 2, 2)) / (1 - guidance)
    null = null_text.optimise(
        linear,
        [end, end, start],
        caption,
        torch.zeros(1, 4),
        new_scheduler(),
        guidance,
        iterations=1500,
        learning_rate=0.05,
        tolerance=0,
        slack=0,
    )
    assert torch.allclose(null[0].reshape(2, 2), optima.mean(0)[0], atol=5e-3)


def test_no_iterations_change_nothing(trajectory):
    _, caption, pivots = trajectory
    empty = torch.randn(1, 4)
    null = null_text.optimise(linear, pivots, caption, empty, new_scheduler(), 7.5, iterations=0)
    assert torch.equal(null, empty.expand(STEPS, 1, 4))


def test_a_step_that_is_near_enough_is_left_alone(trajectory):
    _, caption, pivots = trajectory
    empty = torch.randn(1, 4)
    null = null_text.optimise(linear, pivots, caption, empty, new_scheduler(), 7.5, iterations=5, tolerance=1e6)
    assert torch.equal(null, empty.expand(STEPS, 1, 4))
    slack = null_text.optimise(
        linear, pivots, caption, empty, new_scheduler(), 7.5, iterations=5, tolerance=0, slack=1e6
    )
    assert not torch.equal(slack[0], empty)  # no slack at the first step
    assert torch.equal(slack[0], slack[-1])


@settings(max_examples=25, deadline=None)
@given(guidance=st.floats(-5, 20), seed=st.integers(0, 2**31))
def test_guidance_interpolates_between_the_two_outputs(guidance, seed):
    generator = torch.Generator().manual_seed(seed)
    state, caption, null = (torch.randn(shape, generator=generator) for shape in ((2, 1, 2, 2), (1, 4), (2, 1, 4)))
    time = torch.tensor(1)
    noise = null_text.guided(linear, caption[None], null, guidance)
    for embedding in null:
        without, with_it = linear(state, time, embedding[None]), linear(state, time, caption[None])
        assert torch.allclose(noise(state, time), without + guidance * (with_it - without), atol=1e-4)
    same = null_text.guided(linear, caption[None], caption[None], guidance)
    assert torch.allclose(same(state, time), linear(state, time, caption[None]), atol=1e-4)


class Hungry:
    """A predictor for whose gradients only two frames fit."""

    def __init__(self):
        self.sizes = []

    def __call__(self, state, timestep, embeddings):
        if torch.is_grad_enabled():
            self.sizes.append(len(state))
            if len(state) > 2:
                raise torch.OutOfMemoryError("too much")
        return linear(state, timestep, embeddings)


def test_out_of_memory_halves_the_frames_of_a_pass(trajectory):
    _, caption, pivots = trajectory
    arguments = (pivots, caption, torch.zeros(1, 4), new_scheduler(), 3.0, 4)
    hungry = Hungry()
    null = null_text.optimise(hungry, *arguments)
    assert hungry.sizes[:2] == [3, 1] and max(hungry.sizes[1:]) == 1
    assert torch.allclose(null, null_text.optimise(linear, *arguments), atol=1e-5)

    def starving(state, timestep, embeddings):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("too much")
        return linear(state, timestep, embeddings)

    with pytest.raises(torch.OutOfMemoryError):
        null_text.optimise(starving, *arguments)


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()
    with torch.no_grad():
        # Fresh from its initialiser it hardly looks at the caption, and is no contraction.
        for name, parameter in network.named_parameters():
            if "attn2.to_out" in name or "attn2.to_v" in name:
                parameter *= 4
        network.conv_out.weight *= 0.2
    return network


def test_on_a_u_net_the_guided_round_trip_closes(unet):
    def predict(state, timestep, embeddings):
        return unet(state, timestep, encoder_hidden_states=embeddings.expand(len(state), -1, -1)).sample

    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(3, 4, 8, 8, generator=generator)
    caption, empty = torch.randn(2, 6, 16, generator=generator)
    scheduler = new_scheduler()

    def at_one(state, timestep):
        return predict(state, timestep, caption[None])

    pivots = list(inversion.trajectory(at_one, latents, scheduler, STEPS, refine=4))
    null = null_text.optimise(
        predict, pivots, caption, empty, scheduler, 3.0, 60, learning_rate=0.05, tolerance=0, slack=0
    )
    plain = error(inversion.generate(at_one, pivots[-1], scheduler, STEPS), latents)
    without = error(walk(predict, pivots, caption, empty.expand_as(null), 3.0), latents)
    optimised = error(walk(predict, pivots, caption, null, 3.0), latents)
    print(plain, without, optimised)
    assert optimised < 0.05 * without
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert caption.grad is None and empty.grad is None and not null.requires_grad


@pytest.mark.parametrize("name", ["embedded", "autoencoder", "rectified-flow"])
def test_the_configuration_refuses_it_for_decoders_without_guidance(name):
    change = {"null_text": 10, "guidance": 3.0, "prompt": "caption"}
    with pytest.raises(VLFMError, match=r"null_text needs decoder\.name stable-diffusion"):
        make_config(decoder={"name": name, "model": "folder"}, inversion=change)
