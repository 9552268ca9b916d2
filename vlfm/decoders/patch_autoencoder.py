"""An autoencoder in closed form: an orthonormal basis for the patches of an image."""

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch.nn import functional


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Principal components of non-overlapping patches: the linear autoencoder with the smallest squared error.

    A frame in [−1, 1] of shape (3, H, W) becomes latents of shape (C, H/p, W/p). One global `scale` brings the
    latents to unit variance while keeping the basis orthonormal up to that factor, so that a squared error in
    the latents is proportional to the squared error in the picture.

    Args:
        patch: side p of a patch in pixels.
        channels: components kept, C ≤ 3 p².
    """

    @register_to_config
    def __init__(self, patch: int = 6, channels: int = 16):
        super().__init__()
        features = 3 * patch**2
        if channels > features:
            raise ValueError(f"{channels} channels, but a patch has only {features} numbers")
        self.register_buffer("basis", torch.eye(features)[:channels].contiguous())
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    @torch.no_grad()
    def fit(cls, frames: torch.Tensor | Sequence[torch.Tensor], patch: int, channels: int) -> "PatchAutoencoder":
        """The basis that reconstructs `frames` with the smallest squared error.

        Args:
            frames: (B, 3, H, W) in [−1, 1]; of several sizes, one such tensor for each.
        """
        model = cls(patch, channels)
        count, total, products = 0, 0.0, 0.0
        for part in [frames] if isinstance(frames, torch.Tensor) else frames:
            for chunk in part.split(256):
                patches = functional.pixel_unshuffle(chunk.double(), patch).movedim(1, -1).flatten(0, -2)
                count += len(patches)
                total = total + patches.sum(0)
                products = products + patches.T @ patches
        mean = total / count
        # Pixels are of order 1, so that nothing is lost in the difference of float64 sums.
        covariance = products / count - torch.outer(mean, mean)
        variances, vectors = torch.linalg.eigh(covariance)
        basis = vectors.flip(1)[:, :channels].T
        # A component's sign is arbitrary: fixed here, so that the same frames give the same file everywhere.
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        model.basis.copy_(basis * largest.sign())
        model.mean.copy_(mean)
        model.scale.copy_(variances.flip(0)[:channels].mean().sqrt().clamp_min(1e-6))
        return model

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (B, 3, H, W) in [−1, 1] → latents (B, C, H/p, W/p) of about unit variance."""
        patches = functional.pixel_unshuffle(frames, self.config.patch) - self.mean[:, None, None]
        return functional.conv2d(patches, (self.basis / self.scale)[:, :, None, None])

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → frames (B, 3, p·h, p·w), not clipped."""
        patches = functional.conv2d(latents, (self.basis.T * self.scale)[:, :, None, None])
        return functional.pixel_shuffle(patches + self.mean[:, None, None], self.config.patch)
