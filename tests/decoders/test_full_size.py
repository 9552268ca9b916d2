"""Stable Diffusion 1.5 at its full size, random weights, through the paper's preset."""

import json
import resource

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from tests.conftest import ROOT, make_config
from tests.data import tiny_models
from tests.data.latents import write_clips
from vlfm.decoders.load import load_decoder
from vlfm.decoders.prepare import prepare_decoder
from vlfm.latents.invert import invert_shard
from vlfm.latents.store import LatentStore
from vlfm.storage.files import read_json

PRESET = yaml.safe_load((ROOT / "workflow" / "presets" / "paper.yaml").read_text())

# config.json of each part, as published; what the classes have as defaults is written out all the same.
UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE = {
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "act_fn": "silu",
    "norm_num_groups": 32,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def test_the_preset_is_valid_and_changes_what_it_names():
    config = make_config(**PRESET)
    assert config.clips.num_frames_of(config.clips.longest) == 48
    assert config.decoder.model == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config.check_model((4, 64, 64))
    default = make_config()
    assert config.model.head_dim * config.model.heads == 1152 and config.evaluation.solver == default.evaluation.solver


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sd15")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)  # a fifth of the disk space is saved, and half the time
    try:
        sizes = {}
        for part, make in {
            "unet": lambda: UNet2DConditionModel(**UNET),
            "vae": lambda: AutoencoderKL(**VAE),
            "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**TEXT)),
        }.items():
            network = make()
            sizes[part] = sum(parameter.numel() for parameter in network.parameters())
            network.save_pretrained(folder / part)
            del network
    finally:
        torch.set_default_dtype(torch.float32)
    assert sizes["unet"] == 859_520_964 and sizes["vae"] == 83_653_863 and sizes["text_encoder"] == 123_060_480
    tiny_models.clip_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    return folder


@pytest.mark.slow(minutes=4)
def test_stable_diffusion_at_its_full_size_goes_through_the_preset(stable_diffusion, tmp_path):
    cpu = torch.device("cpu")
    preset = {**PRESET, "decoder": {**PRESET["decoder"], "model": str(stable_diffusion)}}
    config = make_config(**{**preset, "inversion": {**preset["inversion"], "steps": 2}})
    prepare_decoder(config, [], tmp_path / "decoder", cpu)
    assert read_json(tmp_path / "decoder" / "decoder.json")["shape"] == [4, 64, 64]
    clips = write_clips(tmp_path / "clips.tar", 1, frames=1, height=512, width=512)
    invert_shard(config, clips, tmp_path / "decoder", tmp_path / "s.zarr", tmp_path / "s.parquet", cpu)
    (clip,) = LatentStore(tmp_path / "s.zarr")
    latents = torch.from_numpy(clip.latents)
    assert latents.shape == (1, 4, 64, 64) and latents.isfinite().all() and latents.std() > 0.01
    assert clip.tokens.shape == (77, 768) and clip.round_trip > 0
    decoder = load_decoder(config, tmp_path / "decoder", cpu)
    pictures = decoder.decode(latents)
    assert pictures.shape == (1, 3, 512, 512) and pictures.isfinite().all()
    # Of the process: what the fixture needed to make the weights is in it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 12 * 2**20
