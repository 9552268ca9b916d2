"""The interface of a visual decoder, the paper's bijection D between latents and frames."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import torch

from vlfm.errors import VLFMError

Captions = Sequence[str] | None


class VisualDecoder(ABC):
    """An image model with an inverse.

    Frames are (B, 3, H, W) in [−1, 1]; latents are (B, C, h, w) float32. `encode`/`decode` is the autoencoder
    alone; `invert`/`generate` add the generative model, and cut a batch into what fits. Results are on `device`. At
    depth 0 `invert` is `encode` and `generate` is `decode`.

    Args of `invert` and `generate`:
        captions: one per frame, for a decoder that is conditioned on them (`inversion.prompt: caption`); the others
            ignore them. None stands for empty captions.

    Attributes:
        batch_size: frames worked on at a time; None for all that are given.
        depth: how far from picture to noise the latents u lie, in [0, 1]; see `vlfm.decoders.inversion_depth`.
    """

    batch_size: int | None = None
    depth: float = 0.0

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
    def generate(
        self, latents: torch.Tensor, captions: Captions = None, null_text: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Latents u → frames, D.

        Args:
            null_text: (K, L, D), one a step walked, with guidance; of the one clip that the latents belong to. See
                `vlfm.decoders.null_text`.

        Raises:
            VLFMError: for null text, by a decoder that takes no guidance.
        """


def refuse_null_text(decoder: VisualDecoder, null_text: torch.Tensor | None) -> None:
    """For decoders without guidance; raises `VLFMError` unless there is none."""
    if null_text is not None:
        raise VLFMError(
            f"{type(decoder).__name__} takes no guidance and so no null text, which only stable-diffusion does; "
            "invert again with inversion.null_text: 0"
        )


def check_size(height: int, width: int, unit: int) -> None:
    """Refuse frames whose sides are no multiples of `unit` pixels, naming a size that is.

    Raises:
        VLFMError: with the nearest such size.
    """
    if height % unit or width % unit:
        near = "×".join(str(max(1, round(side / unit)) * unit) for side in (width, height))
        raise VLFMError(
            f"frames of {width}×{height} pixels do not fit; both sides must be multiples of {unit}: {near} would do"
        )
