"""An autoencoder whose patches see their neighbours: sharper, with less of a grid, at the same number of latents."""

from typing import Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from vlfm.decoders.patch_autoencoder import PatchAutoencoder


class LappedAutoencoder(ModelMixin, ConfigMixin):
    """A linear encoder over 3 × 3 patches; a decoder that is linear over 3 × 3 latents, plus a small network.

    A frame in [−1, 1] of shape (3, H, W) becomes latents (C, H/p, W/p) of unit variance on average, as those of
    `PatchAutoencoder` are, from which it starts. All convolutions run at the latents' resolution, on patches as
    channels.

    Args:
        patch: side p of a patch in pixels.
        channels: C.
        width: channels of the network.
        blocks: residual blocks of it; each sees one position further.
    """

    @register_to_config
    def __init__(self, patch: int = 6, channels: int = 16, width: int = 160, blocks: int = 2):
        super().__init__()
        features = 3 * patch**2
        self.analysis = _convolution(features, channels)
        self.synthesis = _convolution(channels, features)
        self.lift = _convolution(channels, width)
        self.network = nn.ModuleList(Block(width) for _ in range(blocks))
        self.correct = nn.Conv2d(width, features, 1)
        nn.init.zeros_(self.correct.weight)
        nn.init.zeros_(self.correct.bias)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def of_patches(cls, patches: PatchAutoencoder, width: int, blocks: int) -> Self:
        """One that does what `patches` does, until it is trained."""
        model = cls(patches.config.patch, patches.config.channels, width, blocks)
        with torch.no_grad():
            for convolution, weight, bias in (
                (model.analysis, patches.basis / patches.scale, -(patches.basis @ patches.mean) / patches.scale),
                (model.synthesis, patches.basis.T * patches.scale, patches.mean),
            ):
                convolution.weight.zero_()
                convolution.weight[:, :, 1, 1] = weight
                convolution.bias.copy_(bias)
        return model

    @torch.no_grad()
    def normalise(self, frames: list[Tensor]) -> None:
        """Set mean and scale so that the latents of `frames`, (B, 3, H, W) each, are centred and of unit variance."""
        self.mean.zero_()
        self.scale.fill_(1)
        count, total, squares = 0, 0.0, 0.0
        for chunk in (chunk for part in frames for chunk in part.split(256)):
            latents = self.encode(chunk.to(self.device)).double().movedim(1, -1).flatten(0, -2)
            count, total, squares = count + len(latents), total + latents.sum(0), squares + latents.square().sum(0)
        mean = total / count
        # Latents are of order 1, so that nothing is lost in the difference of float64 sums.
        self.mean.copy_(mean)
        self.scale.copy_((squares / count - mean.square()).mean().sqrt().clamp_min(1e-6))

    def encode(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, H, W) in [−1, 1] → latents (B, C, H/p, W/p) of about unit variance."""
        latents = self.analysis(functional.pixel_unshuffle(frames, self.config.patch))
        return (latents - self.mean[:, None, None]) / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) → frames (B, 3, p·h, p·w), not clipped."""
        latents = latents * self.scale + self.mean[:, None, None]
        hidden = self.lift(latents)
        for block in self.network:
            hidden = block(hidden)
        patches = self.synthesis(latents) + self.correct(functional.gelu(hidden))
        return functional.pixel_shuffle(patches, self.config.patch)


class Block(nn.Module):
    """One convolution, added to what came in."""

    def __init__(self, width: int):
        super().__init__()
        self.convolution = _convolution(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.convolution(functional.gelu(hidden))


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="replicate")
