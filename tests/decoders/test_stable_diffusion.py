"""Stable Diffusion from a folder, against diffusers' own pipeline and loops."""

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMInverseScheduler,
    DDIMScheduler,
    EulerDiscreteScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel, CLIPTokenizer

from tests.data import tiny_models
from vlfm.decoders.autoencoder import AutoencoderDecoder, LatentAutoencoder
from vlfm.decoders.stable_diffusion import StableDiffusionDecoder, ddim_scheduler
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json

CAPTIONS = ["a cat", "a dog", "a cat"]


def evaluations(decoder):
    """A list that grows by the batch size with every evaluation of the decoder's network."""
    seen = []
    decoder.network.register_forward_pre_hook(
        lambda module, arguments, options: seen.append(len(arguments[0] if arguments else options["hidden_states"])),
        with_kwargs=True,
    )
    return seen


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_inversion_matches_a_plain_diffusers_loop(tmp_path, frames, prediction, spacing):
    folder = tiny_models.stable_diffusion(tmp_path, prediction, timestep_spacing=spacing)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tower = CLIPTextModel.from_pretrained(folder / "text_encoder")
    inverse = DDIMInverseScheduler.from_pretrained(folder / "scheduler", clip_sample=False)
    inverse.set_timesteps(10)
    with torch.no_grad():
        tokens = tokenizer(CAPTIONS, padding="max_length", max_length=77, return_tensors="pt").input_ids
        embeddings = tower(tokens).last_hidden_state
        state = vae.encode(frames).latent_dist.mode() * vae.config.scaling_factor
        for timestep in inverse.timesteps:
            noise = unet(state, timestep, encoder_hidden_states=embeddings).sample
            state = inverse.step(noise, timestep, state).prev_sample
    decoder = StableDiffusionDecoder.from_folder(folder, steps=10, captioned=True)
    assert decoder.scheduler.config.prediction_type == prediction
    torch.testing.assert_close(decoder.embed(CAPTIONS), embeddings, atol=1e-5, rtol=0)
    latents = decoder.invert(frames, CAPTIONS)
    assert (latents - state).abs().max() < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_generation_matches_diffusers_pipeline(tmp_path, frames, prediction):
    folder = tiny_models.stable_diffusion(tmp_path, prediction)
    decoder = StableDiffusionDecoder.from_folder(folder, steps=5, captioned=True)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=decoder.autoencoder.network,
        unet=decoder.network,
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(3, 4, 8, 8)
    pictures = pipeline(
        CAPTIONS, height=64, width=64, num_inference_steps=5, guidance_scale=1.0, latents=latents, output_type="pt"
    ).images
    ours = decoder.generate(latents, CAPTIONS)
    assert ours.std() > 0.05
    assert (ours - (2 * pictures - 1)).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prediction", "more"),
    [
        ("epsilon", {}),
        ("v_prediction", {}),
        # Stable Diffusion 2's fine-tunes that begin in pure noise.
        ("v_prediction", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}),
    ],
)
def test_refinement_closes_the_round_trip(tmp_path, frames, prediction, more):
    folder = tiny_models.stable_diffusion(tmp_path, prediction)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**read_json(path), **more}))
    errors = []
    for refine in (0, 1, 3, 8):
        decoder = StableDiffusionDecoder.from_folder(folder, steps=5, refine=refine)
        latents = decoder.invert(frames)
        assert latents.shape == (3, *decoder.latent_shape(64, 64)) and latents.dtype == torch.float32
        errors.append((decoder.generate(latents) - decoder.decode(decoder.encode(frames))).abs().mean().item())
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-5


def test_captions_are_seen_if_asked_for_and_only_then(stable_diffusion, frames):
    seeing = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3, captioned=True)
    blind = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3)
    empty = blind.invert(frames)
    assert torch.equal(blind.invert(frames, CAPTIONS), empty)
    assert torch.equal(seeing.invert(frames), empty)
    assert torch.equal(seeing.invert(frames, ["", "", ""]), empty)
    captioned = seeing.invert(frames, CAPTIONS)
    assert (captioned - empty).abs().max() > 1e-3
    # Each frame sees its own: the same frames the other way round give the same.
    back = seeing.invert(frames.flip(0), CAPTIONS[::-1]).flip(0)
    torch.testing.assert_close(back, captioned, atol=1e-5, rtol=0)
    assert (seeing.generate(captioned, CAPTIONS) - seeing.generate(captioned)).abs().max() > 1e-3


def test_work_done_once(stable_diffusion, frames, monkeypatch):
    embedded = []
    forward = CLIPTextModel.forward
    monkeypatch.setattr(
        CLIPTextModel, "forward", lambda self, *a, **k: embedded.append(a[0].shape[0]) or forward(self, *a, **k)
    )
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3, captioned=True, batch_size=2)
    seen = evaluations(decoder)
    first = decoder.invert(frames, CAPTIONS)
    assert seen == [2, 2, 2, 1, 1, 1]  # one evaluation a step, two batches
    decoder.generate(first, CAPTIONS)
    assert embedded == [1, 1]  # two distinct captions in four batches
    whole = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3, captioned=True)
    torch.testing.assert_close(whole.invert(frames, CAPTIONS), first, atol=1e-5, rtol=0)

    embedded.clear()
    blind = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3)
    blind.encode(frames)
    assert not embedded
    blind.generate(blind.invert(frames, CAPTIONS))
    assert embedded == [1] and blind.prompts._tower is None


def test_the_walk_is_differentiable_in_the_embedding(stable_diffusion):
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3)
    embedding = decoder.embed([""]).requires_grad_()
    assert embedding.shape == (1, 77, tiny_models.WIDTH) and embedding.dtype == torch.float32
    predict = decoder.predictor(embedding)
    predict(torch.randn(2, 4, 8, 8), torch.tensor(7)).square().sum().backward()
    assert embedding.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in decoder.network.parameters())


def test_a_network_in_bfloat16_walks_a_state_in_float32(stable_diffusion, frames):
    exact = StableDiffusionDecoder.from_folder(stable_diffusion, steps=5)
    rounded = StableDiffusionDecoder.from_folder(stable_diffusion, steps=5, dtype=torch.bfloat16)
    latents = rounded.invert(frames)
    assert latents.dtype == torch.float32 and rounded.network.dtype == torch.bfloat16
    error = (latents - exact.invert(frames)).norm() / latents.norm()
    assert 0 < error < 0.02
    # Rounded once more, it would be among bfloat16's numbers.
    assert not torch.equal(latents, latents.bfloat16().float())


def test_another_autoencoder_takes_the_place_of_its_own(stable_diffusion, tmp_path, frames):
    other = tiny_models.autoencoder_kl(tmp_path / "other", seed=5)
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion, vae=other, steps=3)
    alone = AutoencoderDecoder(LatentAutoencoder.from_folder(other))
    own = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3)
    assert torch.equal(decoder.encode(frames), alone.encode(frames))
    assert (decoder.encode(frames) - own.encode(frames)).abs().max() > 0.1
    wide = tiny_models.autoencoder_kl(tmp_path / "wide", latent_channels=8)
    with pytest.raises(VLFMError, match="takes 4 channels and gives 4, the autoencoder has 8"):
        StableDiffusionDecoder.from_folder(stable_diffusion, vae=wide)


def test_saved_and_loaded_again(stable_diffusion, tmp_path, frames):
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3)
    shutil.copytree(stable_diffusion, tmp_path / "again")
    decoder.network.save_pretrained(tmp_path / "again" / "unet")
    decoder.autoencoder.network.save_pretrained(tmp_path / "again" / "vae")
    decoder.scheduler.save_pretrained(tmp_path / "again" / "scheduler")
    again = StableDiffusionDecoder.from_folder(tmp_path / "again", steps=3)
    assert torch.equal(again.invert(frames), decoder.invert(frames))


def test_frames_that_do_not_fit_are_told_what_would(stable_diffusion):
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion)
    assert decoder.latent_shape(512, 768) == (4, 64, 96)
    with pytest.raises(VLFMError, match=r"frames of 100×64 pixels do not fit; .* multiples of 8: 96×64 would do"):
        decoder.latent_shape(64, 100)


def test_sizes_that_are_no_power_of_two_go_through(stable_diffusion):
    """40 pixels are 5 latent positions, which the U-Net halves and doubles."""
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion, steps=2)
    latents = decoder.invert(torch.zeros(1, 3, 40, 72))
    assert latents.shape == (1, *decoder.latent_shape(40, 72)) == (1, 4, 5, 9)
    assert decoder.generate(latents).shape == (1, 3, 40, 72)


def test_any_scheduler_becomes_ddim_that_can_be_undone(tmp_path):
    pndm = read_json(tiny_models.stable_diffusion(tmp_path / "sd") / "scheduler" / "scheduler_config.json")
    assert "clip_sample" not in pndm and pndm["_class_name"] == "PNDMScheduler"
    scheduler = ddim_scheduler(pndm)
    assert scheduler.config.clip_sample is False and scheduler.config.thresholding is False
    assert scheduler.config.beta_start == pndm["beta_start"] and scheduler.config.steps_offset == 1
    assert scheduler.config.set_alpha_to_one is False
    euler = dict(EulerDiscreteScheduler(timestep_spacing="linspace", prediction_type="v_prediction").config)
    scheduler = ddim_scheduler(euler)
    assert scheduler.config.timestep_spacing == "leading" and scheduler.config.prediction_type == "v_prediction"
    DDIMInverseScheduler.from_config(scheduler.config).set_timesteps(10)


def test_models_of_another_kind_are_refused(stable_diffusion, tmp_path):
    shutil.copytree(stable_diffusion, tmp_path / "m")
    UNet2DConditionModel(
        in_channels=9,
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=tiny_models.WIDTH,
        attention_head_dim=8,
    ).save_pretrained(tmp_path / "m" / "unet")
    with pytest.raises(VLFMError, match=r"takes 9 channels and gives 4, the autoencoder has 4: an inpainting"):
        StableDiffusionDecoder.from_folder(tmp_path / "m")
    with pytest.raises(VLFMError, match=r"inversion.steps is 1001, but the model knows 1000"):
        StableDiffusionDecoder.from_folder(stable_diffusion, steps=1001)


@pytest.mark.slow
def test_compiled_is_the_same_map(stable_diffusion, frames):
    plain = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3)
    compiled = StableDiffusionDecoder.from_folder(stable_diffusion, steps=3, compile=True)
    torch.testing.assert_close(compiled.invert(frames), plain.invert(frames), atol=1e-4, rtol=0)
