"""The interface of a visual decoder, the paper's bijection D between latents and frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch

Captions = Sequence[str] | None


class VisualDecoder(ABC):
    """An image model with an inverse.

    Frames are (B, 3, H, W) in [−1, 1]; latents are (B, C, h, w) float32. `encode`/`decode` is the autoencoder
    alone; `invert`/`generate` add the generative model. Every method takes any batch size, cuts it into what fits,
    and gives its result on `device`.

    Args of `invert` and `generate`:
        captions: one per frame, for a decoder that is conditioned on them (`inversion.prompt: caption`); the others
            ignore them. None stands for empty captions.
    """

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the networks are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the networks; returns the decoder."""

    @abstractmethod
    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of frames of that many pixels.

        Raises:
            VLFMError: for a size that the model cannot take, with one that it can.
        """

    @abstractmethod
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames → autoencoder latents, in the model's own units."""

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Autoencoder latents → frames, clipped to [−1, 1]."""

    @abstractmethod
    def invert(self, frames: torch.Tensor, captions: Captions = None) -> torch.Tensor:
        """Frames → the latents u that VLFM models, D⁻¹."""

    @abstractmethod
    def generate(self, latents: torch.Tensor, captions: Captions = None) -> torch.Tensor:
        """Latents u → frames, D."""
