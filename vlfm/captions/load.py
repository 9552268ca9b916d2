"""The caption encoder that a configuration names."""

from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.captions.encoders import DIFFUSERS, WHOLE, CaptionEncoder, encoder_fingerprint, minilm_folder
from vlfm.weights import locate


def load_caption_encoder(config: configs.Config, device: torch.device) -> CaptionEncoder:
    """The caption encoder: MiniLM, the text tower of `decoder.model`, or any that `text.encoder` names."""
    model, parts, key = _caption_encoder(config)
    return CaptionEncoder(model, config.text.max_tokens, parts, device, key)


def caption_encoder_fingerprint(config: configs.Config) -> str:
    """Identity of the caption embeddings, without loading the encoder: its files are read, once through."""
    return encoder_fingerprint(locate_caption_encoder(config), config.text.max_tokens, _caption_encoder(config)[1])


def locate_caption_encoder(config: configs.Config, online: bool = True) -> Path:
    """The folder of the caption encoder; `online` False never fetches."""
    model, parts, key = _caption_encoder(config)
    return locate(model, set(parts), key, online)


def _caption_encoder(config: configs.Config) -> tuple[str, tuple[str, str], str]:
    """Folder or hub id, the parts of it, and the key that named it."""
    if config.text.encoder == "minilm":
        return str(minilm_folder()), WHOLE, "text.encoder"
    if config.text.encoder == "clip":
        return config.decoder.model, DIFFUSERS, "decoder.model"
    return config.text.encoder, WHOLE, "text.encoder"
