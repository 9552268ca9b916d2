"""Decoders loaded from folders, against diffusers' own pipelines and loops, and through the stages."""

import itertools
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
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from tests import tiny_models
from tests.conftest import make_config
from tests.latents_data import write_clips
from vlfm.artifacts import read_json
from vlfm.errors import VLFMError
from vlfm.latents import rectified_flow
from vlfm.latents.autoencoder import AutoencoderDecoder, LatentAutoencoder, locate_autoencoder
from vlfm.latents.decoder import VisualDecoder
from vlfm.latents.invert import invert_shard, latents_fingerprint
from vlfm.latents.load import UNMEASURED, load_decoder
from vlfm.latents.prepare import prepare_decoder
from vlfm.latents.rectified_flow import RectifiedFlowDecoder
from vlfm.latents.stable_diffusion import StableDiffusionDecoder, ddim_scheduler
from vlfm.latents.store import LatentStore

CPU = torch.device("cpu")
CAPTIONS = ["a cat", "a dog", "a cat"]


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    return tiny_models.stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    return tiny_models.rectified_flow(tmp_path_factory.mktemp("sd3"))


@pytest.fixture
def frames():
    return torch.rand(3, 3, 64, 64) * 2 - 1


def evaluations(decoder):
    """A list that grows by the batch size with every evaluation of the decoder's network."""
    seen = []
    decoder.network.register_forward_pre_hook(
        lambda module, arguments, options: seen.append(len(arguments[0] if arguments else options["hidden_states"])),
        with_kwargs=True,
    )
    return seen


# --------------------------------------------------------------------------------- stable diffusion


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


# -------------------------------------------------------------------------------------- autoencoders


@pytest.mark.parametrize("kind", ["autoencoder_kl", "autoencoder_tiny", "autoencoder_dc"])
@pytest.mark.parametrize("nested", [False, True])
def test_autoencoders_alone(tmp_path, frames, kind, nested):
    place = getattr(tiny_models, kind)(tmp_path / "vae")
    found = locate_autoencoder(str(tmp_path if nested else place))
    assert found == place
    decoder = AutoencoderDecoder(LatentAutoencoder.from_folder(found))
    latents = decoder.invert(frames, CAPTIONS)
    assert latents.shape == (3, *decoder.latent_shape(64, 64))
    network = getattr(diffusers, read_json(place / "config.json")["_class_name"]).from_pretrained(place)
    with torch.no_grad():
        encoded = network.encode(frames)
        plain = encoded.latent_dist.mode() if kind == "autoencoder_kl" else encoded[0]
        torch.testing.assert_close(latents, plain * network.config.scaling_factor, atol=1e-5, rtol=0)
        pictures = network.decode(plain).sample.clamp(-1, 1)
    torch.testing.assert_close(decoder.generate(latents), pictures, atol=1e-4, rtol=0)


def test_latents_are_shifted_before_they_are_scaled(tmp_path, frames):
    shifted = LatentAutoencoder.from_folder(tiny_models.autoencoder_kl(tmp_path, shift_factor=0.5))
    plain = shifted.network.encode(frames).latent_dist.mode()
    torch.testing.assert_close(shifted.encode(frames), (plain - 0.5) * 4, atol=1e-5, rtol=0)


def test_many_frames_go_through_in_parts(tmp_path, monkeypatch):
    autoencoder = LatentAutoencoder.from_folder(tiny_models.autoencoder_tiny(tmp_path))
    frames = torch.rand(5, 3, 32, 32) * 2 - 1
    whole = autoencoder.encode(frames)
    monkeypatch.setattr("vlfm.latents.autoencoder.PIXELS", 2 * 32 * 32)
    sizes = []
    autoencoder.network.encoder.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    torch.testing.assert_close(autoencoder.encode(frames), whole, atol=1e-5, rtol=0)
    assert sizes == [2, 2, 1]


def test_what_is_no_autoencoder_is_refused(tmp_path, stable_diffusion):
    with pytest.raises(VLFMError, match="no autoencoder, neither there nor in a subfolder vae"):
        locate_autoencoder(str(stable_diffusion / "scheduler"))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    (tmp_path / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(VLFMError, match=r"weights only as diffusion_pytorch_model\.bin"):
        locate_autoencoder(str(tmp_path))
    with pytest.raises(VLFMError, match="holds a UNet2DConditionModel; the autoencoders that can be used are"):
        LatentAutoencoder.from_folder(stable_diffusion / "unet")


# ------------------------------------------------------------------------------------ rectified flow


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


# ----------------------------------------------------------------------------------------------- L0


class Scaled(VisualDecoder):
    """u times a number for each channel: quotients lie between the smallest and the largest."""

    device = CPU
    factors = torch.tensor([0.5, 1.0, 3.0])[:, None, None]

    def to(self, device):
        return self

    def latent_shape(self, height, width):
        return 3, height, width

    def encode(self, frames):
        return frames / self.factors

    def decode(self, latents):
        return latents * self.factors

    def invert(self, frames, captions=None):
        return self.encode(frames)

    def generate(self, latents, captions=None):
        return self.decode(latents)


def test_l0_is_bounded_from_below():
    latents = torch.randn(4, 3, 4, 4)
    largest, median = Scaled().lipschitz(latents)
    assert 0.5 < median <= largest <= 3
    assert Scaled().lipschitz(latents) == (largest, median)
    # The way from one latent to the next is among the directions.
    along = torch.zeros(2, 3, 4, 4)
    along[1, 2] = 1
    assert Scaled().lipschitz(along, directions=0) == pytest.approx((3, 3))
    # Two frames that are the same have no direction between them.
    assert Scaled().lipschitz(latents[:1].repeat(2, 1, 1, 1))[0] <= 3


def test_l0_of_a_loaded_decoder(stable_diffusion, frames):
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion, steps=2, captioned=True)
    largest, median = decoder.lipschitz(decoder.invert(frames, CAPTIONS), CAPTIONS, directions=2)
    assert 0 < median <= largest < float("inf")


# -------------------------------------------------------------------------------------- the stages


def config_for(name, model, **change):
    return make_config(
        clips={"size": 64, "duration": 0.25},
        decoder={"name": name, "model": str(model), "vae": change.pop("vae", None)},
        inversion={"steps": 3, "precision": "float32", **change.pop("inversion", {})},
        flow={"order": 4},
        model={"heads": 2, "head_dim": 64},
        **change,
    )


@pytest.mark.parametrize(
    ("name", "make", "text", "prompt"),
    [
        ("stable-diffusion", tiny_models.stable_diffusion, "clip", "caption"),
        ("stable-diffusion", tiny_models.stable_diffusion, "minilm", "empty"),
        ("autoencoder", tiny_models.autoencoder_kl, "minilm", "empty"),
        ("rectified-flow", tiny_models.rectified_flow, "minilm", "caption"),
    ],
)
def test_through_the_stages(tmp_path, name, make, text, prompt):
    folder = make(tmp_path / "model")
    config = config_for(
        name, folder, text={"encoder": text}, inversion={"prompt": prompt, "refine": 2, "batch_size": 8}
    )
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    about = read_json(tmp_path / "decoder" / "decoder.json")
    assert about["name"] == name and about["shape"] == [4, 8, 8] and about["model"] == str(folder)
    clips = write_clips(tmp_path / "clips.tar", 3, height=64, width=64)
    invert_shard(config, clips, tmp_path / "decoder", tmp_path / "s.zarr", tmp_path / "s.parquet", CPU)
    store = LatentStore(tmp_path / "s.zarr")
    decoder = load_decoder(config, tmp_path / "decoder", CPU)
    for clip in store:
        assert clip.latents.shape == (6, 4, 8, 8) and 0 < clip.round_trip < 60
        assert decoder.generate(torch.from_numpy(clip.latents), [clip.caption] * 6).shape == (6, 3, 64, 64)
    assert store.fingerprint == latents_fingerprint(config, tmp_path / "decoder")


@pytest.mark.parametrize(
    ("precision", "network", "autoencoder"),
    [("float32", torch.float32, torch.float32), ("bfloat16", torch.bfloat16, torch.bfloat16)],
)
def test_precision_and_the_other_settings_reach_the_decoder(
    stable_diffusion, tmp_path, precision, network, autoencoder
):
    asked = {"precision": precision, "steps": 7, "refine": 2, "prompt": "caption", "batch_size": 5}
    config = config_for("stable-diffusion", stable_diffusion, inversion=asked)
    prepare_decoder(config, [], tmp_path, CPU)
    decoder = load_decoder(config, tmp_path, CPU)
    assert decoder.network.dtype == network and decoder.autoencoder.network.dtype == autoencoder
    assert (decoder.steps, decoder.refine, decoder.captioned, decoder.batch_size) == (7, 2, True, 5)


def test_the_autoencoder_stays_exact_where_the_network_is_rounded(stable_diffusion, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    config = config_for("stable-diffusion", stable_diffusion, inversion={"precision": "auto", "batch_size": "auto"})
    prepare_decoder(config, [], tmp_path, CPU)
    decoder = load_decoder(config, tmp_path, CPU)
    assert decoder.network.dtype == torch.bfloat16 and decoder.autoencoder.network.dtype == torch.float32
    assert decoder.batch_size == UNMEASURED


def identity(config, output):
    prepare_decoder(config, [], output, CPU)
    return latents_fingerprint(config, output)


def test_the_fingerprint_is_of_weights_and_autoencoder_not_of_the_path(stable_diffusion, tmp_path):
    first = identity(config_for("stable-diffusion", stable_diffusion), tmp_path / "a")
    shutil.copytree(stable_diffusion, tmp_path / "copy")
    assert identity(config_for("stable-diffusion", tmp_path / "copy"), tmp_path / "b") == first
    own = tmp_path / "copy" / "vae"
    assert identity(config_for("stable-diffusion", stable_diffusion, vae=str(own)), tmp_path / "c") == first
    # A folder with an autoencoder in it names that autoencoder.
    assert identity(config_for("stable-diffusion", stable_diffusion, vae=str(own.parent)), tmp_path / "c") == first
    other = tiny_models.autoencoder_kl(tmp_path / "other", seed=3)
    seen = {first, identity(config_for("stable-diffusion", stable_diffusion, vae=str(other)), tmp_path / "d")}
    assert len(seen) == 2
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        weights = tmp_path / "copy" / f"{part}.safetensors"
        state = load_file(weights)
        state[min(state)] += 1e-3
        save_file(state, weights)
        seen.add(identity(config_for("stable-diffusion", tmp_path / "copy"), tmp_path / "e"))
    assert len(seen) == 5
    nested = identity(config_for("autoencoder", stable_diffusion), tmp_path / "f")
    assert nested == identity(config_for("autoencoder", stable_diffusion / "vae"), tmp_path / "g")
    assert nested not in seen


def test_the_third_text_tower_is_part_of_the_fingerprint(tmp_path):
    folder = tiny_models.rectified_flow(tmp_path / "m", t5=True)
    config = config_for("rectified-flow", folder)
    with_it = identity(config, tmp_path / "a")
    assert "text_encoder_3" in read_json(tmp_path / "a" / "decoder.json")["parts"]
    assert load_decoder(config, tmp_path / "a", CPU).seen(None)[0][:, 77:].abs().max() > 0
    shutil.rmtree(folder / "text_encoder_3")
    assert identity(config, tmp_path / "b") != with_it
    assert "text_encoder_3" not in read_json(tmp_path / "b" / "decoder.json")["parts"]


def test_what_does_not_fit_fails_before_any_inversion(stable_diffusion, tmp_path):
    def refusal(**change):
        config = config_for("stable-diffusion", stable_diffusion).model_copy(deep=True)
        for key, value in change.items():
            section, name = key.split("__")
            part = getattr(config, section).model_copy(update={name: value})
            config = config.model_copy(update={section: part})
        with pytest.raises(VLFMError) as error:
            prepare_decoder(config, [], tmp_path / "decoder", CPU)
        assert not (tmp_path / "decoder" / "decoder.json").exists()
        return str(error.value)

    assert "clips.size 100×100" in (text := refusal(clips__size=100)) and "multiples of 8: 96×96 would do" in text
    assert "clips.size 96×40" in (text := refusal(clips__size=[(64, 64), (40, 96)])) and "model.patch = 2" in text
    assert "model.heads × model.head_dim is 32, less than the 64" in refusal(model__head_dim=16)


def test_a_decoder_folder_of_another_decoder_or_model_that_is_gone(stable_diffusion, tmp_path):
    shutil.copytree(stable_diffusion, tmp_path / "m")
    config = config_for("stable-diffusion", tmp_path / "m")
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    with pytest.raises(
        VLFMError, match=r"prepared for another decoder\.name than autoencoder .it has stable-diffusion"
    ):
        load_decoder(config_for("autoencoder", tmp_path / "m"), tmp_path / "decoder", CPU)
    with pytest.raises(VLFMError, match=r"prepared for another decoder\.model than elsewhere"):
        load_decoder(config_for("stable-diffusion", "elsewhere"), tmp_path / "decoder", CPU)
    with pytest.raises(VLFMError, match=r"prepared for another decoder\.vae than other"):
        load_decoder(config_for("stable-diffusion", tmp_path / "m", vae="other"), tmp_path / "decoder", CPU)
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(VLFMError, match="which is no more; run `vlfm prepare-decoder` again"):
        load_decoder(config, tmp_path / "decoder", CPU)
    with pytest.raises(VLFMError, match="there is no such folder"):
        prepare_decoder(config, [], tmp_path / "decoder", CPU)


def test_a_model_that_was_replaced_since_is_noticed(stable_diffusion, tmp_path):
    shutil.copytree(stable_diffusion, tmp_path / "m")
    config = config_for("stable-diffusion", tmp_path / "m")
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    weights = tmp_path / "m" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value * 1.01 for name, value in load_file(weights).items()}, weights)
    with pytest.raises(VLFMError, match="run `vlfm prepare-decoder` again"):
        load_decoder(config, tmp_path / "decoder", CPU)
    prepare_decoder(config, [], tmp_path / "decoder", CPU)
    load_decoder(config, tmp_path / "decoder", CPU)
