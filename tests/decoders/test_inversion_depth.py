"""Paths between picture and noise: what a decoder's depth means, for every kind of decoder."""

import itertools

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler

from tests.data.latents import movie, write_decoder
from vlfm.decoders import ddim, rectified_flow
from vlfm.decoders.embedded import EmbeddedDecoder, new_scheduler
from vlfm.decoders.inversion_depth import walked_steps
from vlfm.decoders.rectified_flow import RectifiedFlowDecoder
from vlfm.decoders.stable_diffusion import StableDiffusionDecoder
from vlfm.errors import VLFMError
from vlfm.frames import to_tensor

STEPS = 8
DEPTHS = (0.25, 0.5, 0.75)
KINDS = ("embedded", "stable-diffusion", "rectified-flow")
CAPTIONS = ["a cat", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("decoder"))


@pytest.fixture
def pictures():
    return to_tensor(movie(0, 2, 48, 48))


@pytest.fixture
def open_at(folder, stable_diffusion, sd3):
    """`open_at(kind, depth, refine=…)` → a decoder, and a list that grows with every evaluation of its network."""

    def opened(kind, depth, **options):
        if kind == "embedded":
            decoder = EmbeddedDecoder.from_pretrained(folder, steps=STEPS, depth=depth, **options)
            network = decoder.unet
        else:
            cls, place = {
                "stable-diffusion": (StableDiffusionDecoder, stable_diffusion),
                "rectified-flow": (RectifiedFlowDecoder, sd3),
            }[kind]
            decoder = cls.from_folder(place, steps=STEPS, depth=depth, captioned=True, **options)
            network = decoder.network
        evaluated = []
        network.register_forward_pre_hook(lambda *_: evaluated.append(1))
        return decoder, evaluated

    return opened


def whole_walk(decoder, latents):
    """Every state from the latents to their noise, written out from the equations of the two walks."""
    states, refine = [latents], decoder.refine
    if isinstance(decoder, RectifiedFlowDecoder):
        sigmas, times = rectified_flow.noise_levels(decoder.scheduler, decoder.steps, 9)
        velocity = decoder.velocity(*decoder.seen(CAPTIONS))
        for step in reversed(range(len(times))):
            state = states[-1]
            for _ in range(1 + refine):
                state = states[-1] - (sigmas[step + 1] - sigmas[step]) * velocity(state, times[step])
            states.append(state)
        return states
    captioned = isinstance(decoder, StableDiffusionDecoder)
    predict = decoder.predictor(decoder.embed(CAPTIONS)) if captioned else decoder.predict_noise
    inverse = DDIMInverseScheduler.from_config(decoder.scheduler.config)
    inverse.set_timesteps(decoder.steps)
    for timestep in inverse.timesteps:
        state = states[-1]
        for _ in range(1 + refine):
            state = inverse.step(predict(state, timestep), timestep, states[-1]).prev_sample
        states.append(state)
    return states


@pytest.mark.parametrize(
    ("steps", "depth", "walked"),
    [(20, 0, 0), (20, 1e-6, 1), (20, 0.5, 10), (20, 0.51, 10), (20, 0.53, 11), (20, 1, 20), (5, 0.5, 3), (1, 0.2, 1)],
)
def test_depth_acts_in_steps_and_above_zero_walks_one(steps, depth, walked):
    assert walked_steps(steps, depth) == walked


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("refine", [0, 2])
def test_at_depth_one_the_walk_is_whole(open_at, pictures, kind, refine):
    decoder, evaluated = open_at(kind, 1.0, refine=refine)
    latents = decoder.invert(pictures, CAPTIONS)
    assert len(evaluated) == STEPS * (1 + refine)
    assert torch.equal(latents, whole_walk(decoder, decoder.encode(pictures))[-1])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_between_them_the_state_is_one_that_the_whole_walk_passes(open_at, pictures, kind):
    decoder, evaluated = open_at(kind, 1.0, refine=1)
    states = whole_walk(decoder, decoder.encode(pictures))
    for depth in DEPTHS:
        decoder.depth = depth
        evaluated.clear()
        latents = decoder.invert(pictures, CAPTIONS)
        walked = len(evaluated) // 2
        assert torch.equal(latents, states[walked])
        decoder.generate(latents, CAPTIONS)
        assert len(evaluated) == 3 * walked
        if kind == "rectified-flow":
            sigmas, _ = rectified_flow.noise_levels(decoder.scheduler, STEPS, 9)
            nearest = min(abs(sigma - depth) for sigma in sigmas[:-1])
            assert abs(sigmas[STEPS - walked] - depth) == nearest
        else:
            assert walked == depth * STEPS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_refinement_closes_the_round_trip_at_any_depth(open_at, pictures, kind, depth):
    errors = []
    for refine in (0, 8):
        decoder, _ = open_at(kind, depth, refine=refine)
        latents = decoder.invert(pictures, CAPTIONS)
        assert latents.shape == decoder.encode(pictures).shape and not torch.equal(latents, decoder.encode(pictures))
        truth = decoder.decode(decoder.encode(pictures))
        errors.append((decoder.generate(latents, CAPTIONS) - truth).abs().mean().item())
    assert errors[1] < 1e-5 and errors[1] < errors[0]


@pytest.mark.parametrize("kind", KINDS)
def test_at_depth_zero_there_is_the_autoencoder_and_no_network(open_at, pictures, kind):
    decoder, evaluated = open_at(kind, 0.0)
    latents = decoder.invert(pictures, CAPTIONS)
    assert torch.equal(latents, decoder.encode(pictures))
    assert torch.equal(decoder.generate(latents, CAPTIONS), decoder.decode(latents))
    assert not evaluated
    if kind != "embedded":
        assert not decoder.prompts._known, "no caption has been embedded either"


def test_the_level_of_noise_is_the_schedulers():
    """With the noise known, the state is √ᾱ x + √(1 − ᾱ) ε at the ᾱ that the docstring tells."""
    scheduler = new_scheduler()
    clean, noise = torch.randn(2, 16, 4, 8, 8)
    first = scheduler.final_alpha_cumprod
    start = first.sqrt() * clean + (1 - first).sqrt() * noise
    for depth, scale in ((0.25, 0.87), (0.5, 0.59), (0.75, 0.29), (1.0, 0.09)):
        state = ddim.invert(lambda *_: noise, start, scheduler, 20, depth=depth)
        alpha = scheduler.alphas_cumprod[round(50 * 20 * depth) - 49]
        assert alpha.sqrt().item() == pytest.approx(scale, abs=5e-3)
        torch.testing.assert_close(state, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, atol=1e-5, rtol=0)
        assert state.std().item() == pytest.approx(1, abs=0.05), "in the units of the autoencoder"
        back = ddim.generate(lambda *_: noise, state, scheduler, 20, depth)
        torch.testing.assert_close(back, start, atol=1e-4, rtol=0)


def test_every_step_of_a_walk_is_walked_where_the_scheduler_has_one_more():
    """diffusers' `trailing` spacing rounds 61 steps of 1000 to 62."""
    scheduler = DDIMScheduler.from_config(new_scheduler().config, timestep_spacing="trailing")
    states = list(ddim.trajectory(lambda state, _: 0 * state, torch.ones(1, 1, 2, 2), scheduler, 61))
    inverse = DDIMInverseScheduler.from_config(scheduler.config)
    inverse.set_timesteps(61)
    assert len(inverse.timesteps) == 62 == len(states) - 1


def test_a_flow_is_left_at_the_time_nearest_to_the_depth():
    """dx/dσ = 0.8 x: a step multiplies by 1 + 0.8 (σ' − σ)."""
    levels = rectified_flow.noise_levels(FlowMatchEulerDiscreteScheduler(shift=3.0), 12, 64)
    latents = torch.randn(2, 4, 8, 8)
    for depth in (1e-9, 0.3, 0.5, 0.9, 1.0):
        sigmas, timesteps = rectified_flow.up_to(depth, *levels)
        assert len(sigmas) == len(timesteps) + 1 >= 2 and sigmas[-1] == 0
        assert all(abs(sigmas[0] - depth) <= abs(other - depth) for other in levels[0][:-1])
        factor = 1.0
        for before, after in itertools.pairwise(sigmas):
            factor *= 1 + 0.8 * (after - before)
        state = rectified_flow.invert(lambda x, _: 0.8 * x, latents, sigmas, timesteps, refine=20)
        torch.testing.assert_close(state * factor, latents, atol=1e-5, rtol=1e-5)
    assert rectified_flow.up_to(1.0, *levels)[0] == levels[0]


def test_without_a_noise_predictor_there_is_depth_zero_alone(tmp_path, pictures):
    folder = write_decoder(tmp_path, predictor=False)
    assert not (folder / "unet").exists()
    decoder = EmbeddedDecoder.from_pretrained(folder, depth=0.0, compile=True).to("cpu")
    latents = decoder.invert(pictures)
    assert torch.equal(latents, decoder.encode(pictures))
    assert torch.equal(decoder.generate(latents), decoder.decode(latents))
    assert decoder.device == torch.device("cpu") and decoder.latent_shape(48, 42) == (8, 8, 7)
    with pytest.raises(VLFMError, match=r"no noise predictor, which inversion\.depth 0\.5 asks for: set inversion"):
        EmbeddedDecoder.from_pretrained(folder, depth=0.5)
