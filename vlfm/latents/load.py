"""The models that a configuration names: its visual decoder and its caption encoder."""

from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.latents.decoder import VisualDecoder
from vlfm.latents.embedded import EmbeddedDecoder
from vlfm.latents.text import CaptionEncoder, minilm_folder


def load_decoder(config: configs.Config, folder: Path, device: torch.device) -> VisualDecoder:
    """The visual decoder, from the folder that `vlfm prepare-decoder` wrote."""
    return EmbeddedDecoder.from_pretrained(folder, config.inversion.steps, config.inversion.refine).to(device)


def load_caption_encoder(config: configs.Config, device: torch.device) -> CaptionEncoder:
    """The caption encoder."""
    return CaptionEncoder(minilm_folder(), config.text.max_tokens).to(device)
