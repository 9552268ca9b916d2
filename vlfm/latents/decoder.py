"""The interface of a visual decoder, the paper's bijection D between latents and frames."""

from pathlib import Path
from typing import Protocol

import torch


class VisualDecoder(Protocol):
    """An image model with an inverse.

    Frames are (B, 3, H, W) in [−1, 1]; latents are (B, C, h, w) float32. `encode`/`decode` is the autoencoder
    alone; `invert`/`generate` add the generative model. Every method works on any batch size.
    """

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames → autoencoder latents."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Autoencoder latents → frames."""

    def invert(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames → the latents u that VLFM models, D⁻¹."""

    def generate(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents u → frames, D."""

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a diffusers-style folder."""
