"""Diffusers folders of real but tiny models, random weights, for tests of what loads them."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

WIDTH = 16  # of a token's embedding


def stable_diffusion(folder: Path, prediction: str = "epsilon", seed: int = 0, **scheduler) -> Path:
    """A Stable Diffusion folder: 8 pixels a latent position as the real one, 4 channels, a scheduler of class PNDM.

    The noise ends earlier than the real one's: random weights do not whiten, and the last states would be too small.
    """
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
    )
    _tame(unet.conv_out)
    unet.save_pretrained(folder / "unet")
    autoencoder_kl(folder / "vae", seed)
    clip_tower(folder, seed=seed)
    PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.003,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction,
        **scheduler,
    ).save_pretrained(folder / "scheduler")
    return folder


def rectified_flow(folder: Path, seed: int = 0, t5: bool = False, **scheduler) -> Path:
    """A Stable Diffusion 3 folder, without its third text tower unless asked for."""
    torch.manual_seed(seed)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
    )
    _tame(transformer.proj_out)
    transformer.save_pretrained(folder / "transformer")
    autoencoder_kl(folder / "vae", seed, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)
    clip_tower(folder, kind=CLIPTextModelWithProjection, seed=seed)
    clip_tower(folder, "_2", CLIPTextModelWithProjection, seed + 1)
    if t5:
        torch.manual_seed(seed)
        T5EncoderModel(
            T5Config(vocab_size=64, d_model=2 * WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ).save_pretrained(folder / "text_encoder_3")
        # Any tokenizer will do that `AutoTokenizer` reads and whose numbers the tower knows.
        clip_tokenizer(folder / "tokenizer_3", letters="abcdefgh")
    FlowMatchEulerDiscreteScheduler(shift=3.0, **scheduler).save_pretrained(folder / "scheduler")
    return folder


def autoencoder_kl(folder: Path, seed: int = 0, **settings) -> Path:
    """8 pixels a position, 4 channels; the scale brings random weights' latents to unit variance."""
    torch.manual_seed(seed)
    AutoencoderKL(
        scaling_factor=4.0,
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **settings,
    ).save_pretrained(folder)
    return folder


def autoencoder_tiny(folder: Path, seed: int = 0) -> Path:
    """4 pixels a position, 4 channels."""
    torch.manual_seed(seed)
    AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16),
        decoder_block_out_channels=(16, 16, 16),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    ).save_pretrained(folder)
    return folder


def autoencoder_dc(folder: Path, seed: int = 0) -> Path:
    """4 pixels a position, 8 channels."""
    torch.manual_seed(seed)
    AutoencoderDC(
        latent_channels=8,
        attention_head_dim=8,
        encoder_block_types=("ResBlock",) * 3,
        decoder_block_types=("ResBlock",) * 3,
        encoder_block_out_channels=(16, 16, 32),
        decoder_block_out_channels=(16, 16, 32),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.5,
    ).save_pretrained(folder)
    return folder


def clip_tower(folder: Path, suffix: str = "", kind: type = CLIPTextModel, seed: int = 0) -> None:
    """`text_encoder` and `tokenizer` of a diffusers folder."""
    torch.manual_seed(seed)
    vocabulary = clip_tokenizer(folder / f"tokenizer{suffix}")
    kind(
        CLIPTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=WIDTH,
            intermediate_size=32,
            projection_dim=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=vocabulary["<|startoftext|>"],
            eos_token_id=vocabulary["<|endoftext|>"],
            pad_token_id=vocabulary["<|endoftext|>"],
        )
    ).save_pretrained(folder / f"text_encoder{suffix}")


def clip_tokenizer(folder: Path, letters: str = "abcdefghijklmnopqrstuvwxyz") -> dict[str, int]:
    """CLIP's tokenizer as its repositories hold it, over single letters; returns the vocabulary."""
    folder.mkdir(parents=True)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = "<|endoftext|>"
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    return vocabulary


def _tame(layer: torch.nn.Module) -> None:
    """A network fresh from its initialiser is no contraction, and an inversion of it would not converge."""
    torch.nn.init.normal_(layer.weight, std=0.02)
