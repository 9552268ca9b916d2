"""Stable Diffusion 3 from a folder, against diffusers' own pipeline and scheduler."""

import itertools
import json

import diffusers
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.data import tiny_models
from vlfm.decoders import rectified_flow
from vlfm.decoders.rectified_flow import RectifiedFlowDecoder
from vlfm.errors import VLFMError

CAPTIONS = ["a cat", "a dog", "a cat"]


def test_the_inverse_of_euler_on_a_field_with_a_known_answer():
    """dx/dσ = a x: a step multiplies by 1 + a (σ' − σ), and its inverse divides."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    sigmas, timesteps = rectified_flow.noise_levels(scheduler, 12, 64)
    assert sigmas[0] == 1 and sigmas[-1] == 0 and len(sigmas) == 13 == len(timesteps) + 1
    field, rate = (lambda state, timestep: 0.8 * state), 0.8
    noise = torch.randn(2, 4, 8, 8)
    factor = 1.0
    for before, after in itertools.pairwise(sigmas):
        factor *= 1 + rate * (after - before)
    latents = rectified_flow.generate(field, noise, sigmas, timesteps)
    torch.testing.assert_close(latents, factor * noise, atol=1e-5, rtol=1e-5)
    errors = [
        (rectified_flow.invert(field, latents, sigmas, timesteps, refine) - noise).norm() / noise.norm()
        for refine in (0, 1, 2, 12)
    ]
    assert errors[0] > 5 * errors[1] > 25 * errors[2] and errors[3] < 1e-6


@pytest.mark.parametrize("settings", [{"shift": 3.0}, {"shift": 1.0, "use_dynamic_shifting": True}])
def test_generation_is_the_schedulers_own_walk(settings):
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    levels = rectified_flow.noise_levels(scheduler, 7, 300)

    def field(state, timestep):
        return torch.sin(state + timestep / 1000)

    state = torch.randn(2, 4, 8, 8)
    ours = rectified_flow.generate(field, state, *levels)
    mu = {"mu": 0.5 + (300 - 256) * (1.15 - 0.5) / (4096 - 256)} if "use_dynamic_shifting" in settings else {}
    scheduler.set_timesteps(7, **mu)
    for timestep in scheduler.timesteps:
        state = scheduler.step(field(state, timestep), timestep, state).prev_sample
    torch.testing.assert_close(ours, state, atol=1e-5, rtol=0)


def test_rectified_flow_matches_diffusers_pipeline(sd3):
    decoder = RectifiedFlowDecoder.from_folder(sd3, steps=5, captioned=True)
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(sd3, **whole_sd3(sd3))
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(3, 4, 8, 8)
    pictures = pipeline(
        CAPTIONS, height=64, width=64, num_inference_steps=5, guidance_scale=1.0, latents=latents, output_type="pt"
    ).images
    assert (decoder.generate(latents, CAPTIONS) - (2 * pictures - 1)).abs().max() < 1e-4


def whole_sd3(folder):
    """What `from_pretrained` would find in a model_index.json."""
    names = {
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "text_encoder_3": [None, None],
        "tokenizer_3": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline", **names}))
    return {"text_encoder_3": None, "tokenizer_3": None}


def test_rectified_flow_round_trip(sd3, frames):
    errors = []
    for refine in (0, 1, 4):
        decoder = RectifiedFlowDecoder.from_folder(sd3, steps=5, refine=refine, captioned=True)
        latents = decoder.invert(frames, CAPTIONS)
        assert latents.shape == (3, *decoder.latent_shape(64, 64)) and latents.dtype == torch.float32
        truth = decoder.decode(decoder.encode(frames))
        errors.append((decoder.generate(latents, CAPTIONS) - truth).abs().mean().item())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-5
    assert (latents - decoder.invert(frames)).abs().max() > 1e-4


def test_the_third_text_tower_is_used_if_named(tmp_path, frames):
    folder = tiny_models.rectified_flow(tmp_path, t5=True)
    parts = (*rectified_flow.PARTS, *rectified_flow.OPTIONAL_PARTS)
    with_it = RectifiedFlowDecoder.from_folder(folder, parts, steps=3)
    without = RectifiedFlowDecoder.from_folder(folder, steps=3)
    assert with_it.seen(None)[0].shape == without.seen(None)[0].shape
    assert with_it.seen(None)[0][:, 77:].abs().max() > 0 == without.seen(None)[0][:, 77:].abs().max()
    assert (with_it.invert(frames) - without.invert(frames)).abs().max() > 1e-4


def test_frames_larger_than_the_positions_of_the_model(sd3):
    decoder = RectifiedFlowDecoder.from_folder(sd3)
    assert decoder.latent_shape(256, 64) == (4, 32, 8)
    with pytest.raises(VLFMError, match="at most 256×256"):
        decoder.latent_shape(272, 64)
    with pytest.raises(VLFMError, match="multiples of 16"):
        decoder.latent_shape(72, 64)
