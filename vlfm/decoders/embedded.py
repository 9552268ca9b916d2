"""The embedded visual decoder: an autoencoder and a small noise predictor, trained on the clips themselves.

It stands in for Stable Diffusion where no model can be downloaded, behind the same interface. At depth 0 it can do
without the noise predictor.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import DDIMScheduler

from vlfm.decoders import ddim
from vlfm.decoders.base import Captions, VisualDecoder, check_size, refuse_null_text
from vlfm.decoders.lapped_autoencoder import LappedAutoencoder
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError

if TYPE_CHECKING:
    from diffusers import UNet2DModel

Autoencoder = PatchAutoencoder | LappedAutoencoder


class EmbeddedDecoder(VisualDecoder):
    """Autoencoder + DDIM over a `UNet2DModel` noise predictor; see `VisualDecoder` for the methods.

    Args:
        autoencoder: frames ↔ latents of unit variance.
        unet: predicts the noise in such latents; None for none.
        scheduler: the noise levels it was trained on.
        steps: DDIM steps from picture to noise, and back.
        refine: fixed-point refinements a step of inversion.
        depth: the share of the steps that is walked.

    Raises:
        VLFMError: for a depth above 0 without a noise predictor.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        unet: "UNet2DModel | None",
        scheduler: DDIMScheduler,
        steps: int = 20,
        refine: int = 1,
        depth: float = 1.0,
    ):
        if unet is None and depth:
            raise VLFMError(
                f"the embedded decoder has no noise predictor, which inversion.depth {depth:g} asks for: set "
                "inversion.depth to 0, or decoder.embedded.steps above 0 and run `vlfm prepare-decoder` again"
            )
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.unet = None if unet is None else unet.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.steps = steps
        self.refine = refine
        self.depth = depth

    @property
    def device(self) -> torch.device:
        return self.autoencoder.device

    def to(self, device: torch.device | str) -> "EmbeddedDecoder":
        self.autoencoder.to(device)
        if self.unet is not None:
            self.unet.to(device)
        return self

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        patch = self.autoencoder.config.patch
        halvings = 0 if self.unet is None else len(self.unet.config.block_out_channels) - 1
        check_size(height, width, patch * 2**halvings)
        return self.autoencoder.config.channels, height // patch, width // patch

    def predict_noise(self, state: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The noise in a state (B, C, h, w), float32; differentiable."""
        return self.unet(state.to(self.unet.dtype), timestep).sample.float()

    @torch.no_grad()
    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.encode(frames.to(self.device))

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(latents.to(self.device)).clamp(-1, 1)

    def invert(self, frames: torch.Tensor, captions: Captions = None) -> torch.Tensor:
        return self._in_parts(
            lambda part: ddim.invert(
                self.predict_noise, self.encode(part), self.scheduler, self.steps, self.refine, self.depth
            ),
            frames,
        )

    def generate(
        self, latents: torch.Tensor, captions: Captions = None, null_text: torch.Tensor | None = None
    ) -> torch.Tensor:
        refuse_null_text(self, null_text)
        return self._in_parts(
            lambda part: self.decode(
                ddim.generate(self.predict_noise, part.to(self.device), self.scheduler, self.steps, self.depth)
            ),
            latents,
        )

    def _in_parts(self, run: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
        return torch.cat([run(part) for part in values.split(self.batch_size or len(values))])

    def save_pretrained(self, folder: Path | str) -> None:
        self.autoencoder.save_pretrained(Path(folder) / "autoencoder")
        if self.unet is None:
            # That of an earlier training would be taken for this decoder's.
            shutil.rmtree(Path(folder) / "unet", ignore_errors=True)
        else:
            self.unet.save_pretrained(Path(folder) / "unet")
        self.scheduler.save_pretrained(Path(folder) / "scheduler")

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        steps: int = 20,
        refine: int = 1,
        dtype: torch.dtype = torch.float32,
        compile: bool = False,
        depth: float = 1.0,
    ) -> "EmbeddedDecoder":
        """What `save_pretrained` wrote, on the CPU; the noise predictor in `dtype`, the autoencoder in float32."""
        unet = None
        if (Path(folder) / "unet").exists():
            from diffusers import UNet2DModel  # and with it all of diffusers' networks: most of the start-up of a job

            unet = UNet2DModel.from_pretrained(Path(folder) / "unet", use_safetensors=True, torch_dtype=dtype)
            if compile:
                unet.compile()
        return cls(
            load_autoencoder(Path(folder) / "autoencoder"),
            unet,
            DDIMScheduler.from_pretrained(Path(folder) / "scheduler"),
            steps,
            refine,
            depth,
        )


def load_autoencoder(folder: Path) -> Autoencoder:
    """The autoencoder in a folder, of the kind that its config names.

    Raises:
        VLFMError: for a kind that there is not.
    """
    kind = PatchAutoencoder.load_config(folder).get("_class_name")
    kinds = {each.__name__: each for each in (PatchAutoencoder, LappedAutoencoder)}
    if kind not in kinds:
        raise VLFMError(f"{folder / 'config.json'} names {kind!r}; there are {', '.join(kinds)}")
    return kinds[kind].from_pretrained(folder, use_safetensors=True)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise levels, so that what is learnt about steps here carries over."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def new_unet(channels: int, positions: int, widths: list[int]) -> "UNet2DModel":
    """A noise predictor for latents (channels, positions, positions), attention at its coarsest level."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=positions,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        down_block_types=("DownBlock2D",) * (len(widths) - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (len(widths) - 1),
        layers_per_block=1,
        attention_head_dim=32,
    )
