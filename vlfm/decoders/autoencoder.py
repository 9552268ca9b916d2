"""Autoencoders of diffusers, by themselves (the paper's "VAE" case) and as the first half of a latent model."""

from pathlib import Path
from typing import Self

import diffusers
import torch

from vlfm.decoders.base import Captions, VisualDecoder, check_size, refuse_null_text
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json
from vlfm.weights import load_network, locate

CLASSES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")
# Of one pass: four frames of 512×512. The activations of a frame are a hundred times its size.
PIXELS = 4 * 512 * 512


class LatentAutoencoder:
    """A diffusers autoencoder between frames in [−1, 1] and latents of about unit variance, both float32.

    Latents are `(v − shift_factor) · scaling_factor` of what the network calls latents, v: for a Gaussian
    posterior its mode, so that the same frame always has the same latents. It takes a few frames at a time.

    Args:
        network: an `AutoencoderKL`, `AutoencoderTiny` or `AutoencoderDC`.
    """

    def __init__(self, network: torch.nn.Module):
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.scale = float(network.config.get("scaling_factor") or 1)
        self.shift = float(network.config.get("shift_factor") or 0)

    @property
    def device(self) -> torch.device:
        return self.network.device

    def to(self, device: torch.device | str) -> Self:
        self.network.to(device)
        return self

    @property
    def unit(self) -> int:
        """Pixels along the side of one latent position."""
        config = self.network.config
        return 2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1)

    @property
    def channels(self) -> int:
        """C of the latents."""
        return self.network.config.latent_channels

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames (B, 3, H, W) → latents (B, C, H/unit, W/unit)."""
        return torch.cat([self._encode(part) for part in frames.split(self._at_once(frames))])

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → frames (B, 3, h·unit, w·unit), clipped."""
        return torch.cat([self._decode(part) for part in latents.split(self._at_once(latents, self.unit))])

    def _encode(self, frames: torch.Tensor) -> torch.Tensor:
        output = self.network.encode(self._input(frames))
        if hasattr(output, "latent_dist"):
            latents = output.latent_dist.mode()
        else:
            latents = output.latents if hasattr(output, "latents") else output.latent
        return (latents.float().contiguous() - self.shift) * self.scale

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        latents = latents.to(self.device).float() / self.scale + self.shift
        return self.network.decode(self._input(latents)).sample.float().contiguous().clamp(-1, 1)

    def _input(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(self.device, self.network.dtype).contiguous(memory_format=torch.channels_last)

    def _at_once(self, values: torch.Tensor, unit: int = 1) -> int:
        return max(1, PIXELS // (values.shape[-2] * values.shape[-1] * unit**2))

    @classmethod
    def from_folder(cls, folder: Path | str, dtype: torch.dtype = torch.float32) -> Self:
        """The autoencoder of the folder that `locate_autoencoder` found, on the CPU.

        Raises:
            VLFMError: for one of another class, or of other than RGB pictures.
        """
        folder = Path(folder)
        name = read_json(folder / "config.json").get("_class_name")
        if name not in CLASSES:
            raise VLFMError(f"{folder} holds a {name}; the autoencoders that can be used are {', '.join(CLASSES)}")
        network = load_network(getattr(diffusers, name), folder, "", dtype)
        if network.config.in_channels != 3:
            raise VLFMError(f"{folder} encodes pictures of {network.config.in_channels} channels; frames have 3")
        return cls(network)


def locate_autoencoder(model: str, key: str = "decoder.model", online: bool = True) -> Path:
    """The folder with an autoencoder's config.json: of `model` (folder or hub id) itself, or its `vae`.

    Args:
        key: the configuration's key that named it, for messages.
        online: False never fetches.

    Raises:
        VLFMError: if there is neither, and none could be fetched.
    """
    reasons: dict[str, VLFMError] = {}
    for fetch in (False, True) if online else (False,):
        for part in ("vae", ""):
            try:
                return locate(model, {part}, key, fetch) / part
            except VLFMError as error:
                reasons[part] = error
        if Path(model).expanduser().exists():
            break
    nested = (Path(model).expanduser() / "vae").is_dir()
    raise VLFMError(f"no autoencoder, neither there nor in a subfolder vae: {reasons['vae' if nested else '']}")


class AutoencoderDecoder(VisualDecoder):
    """An autoencoder alone: u is the autoencoder's latent, nothing is inverted and no caption is looked at."""

    def __init__(self, autoencoder: LatentAutoencoder):
        self.autoencoder = autoencoder

    @property
    def device(self) -> torch.device:
        return self.autoencoder.device

    def to(self, device: torch.device | str) -> Self:
        self.autoencoder.to(device)
        return self

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        unit = self.autoencoder.unit
        check_size(height, width, unit)
        return self.autoencoder.channels, height // unit, width // unit

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.encode(frames)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(latents)

    def invert(self, frames: torch.Tensor, captions: Captions = None) -> torch.Tensor:
        return self.encode(frames)

    def generate(
        self, latents: torch.Tensor, captions: Captions = None, null_text: torch.Tensor | None = None
    ) -> torch.Tensor:
        refuse_null_text(self, null_text)
        return self.decode(latents)
