"""Stable Diffusion 1.x and 2.x with DDIM inversion: the paper's visual decoder."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from vlfm.decoders import ddim
from vlfm.decoders.autoencoder import LatentAutoencoder
from vlfm.decoders.base import Captions
from vlfm.decoders.inversion_depth import walked_steps
from vlfm.decoders.null_text import guided, optimise
from vlfm.decoders.prompted import PromptedDecoder, Prompts, TextTower
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json
from vlfm.weights import load_network

# Of a diffusers folder; the autoencoder is located by itself, since another may take its place.
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet")
GRADIENT_COST = 8  # times the memory of a frame whose activations are kept


class StableDiffusionDecoder(PromptedDecoder):
    """Autoencoder + DDIM over a caption-conditioned U-Net; see `VisualDecoder` for the methods.

    Guidance is 1, one evaluation of the U-Net a step, but for null text. The state is float32, the networks are in the
    precision they were given in.

    Args:
        autoencoder: frames ↔ latents.
        unet: predicts the noise (or v) in such latents.
        scheduler: the noise levels it was trained on.
        prompts: captions → embeddings (B, L, D).
        steps: DDIM steps from picture to noise, and back; the paper's plain inversion refines none of them.
        guidance: of `invert_guided`, and of `generate` with null text.
        null_text: iterations a step of `invert_guided`.
        options: refine, captioned, batch_size, compile, depth, as `PromptedDecoder` takes them.

    Raises:
        VLFMError: for a U-Net of another kind, or one for other latents than the autoencoder's.
    """

    def __init__(
        self,
        autoencoder: LatentAutoencoder,
        unet: UNet2DConditionModel,
        scheduler: DDIMScheduler,
        prompts: Prompts,
        steps: int = 50,
        guidance: float = 1.0,
        null_text: int = 0,
        **options: Any,
    ):
        if unet.config.in_channels != autoencoder.channels or unet.config.out_channels != autoencoder.channels:
            raise VLFMError(
                f"the U-Net takes {unet.config.in_channels} channels and gives {unet.config.out_channels}, the "
                f"autoencoder has {autoencoder.channels}: an inpainting or upscaling model, or decoder.vae belongs to "
                "another one; give a text-to-image Stable Diffusion 1.x or 2.x"
            )
        if unet.config.addition_embed_type is not None or unet.config.class_embed_type is not None:
            raise VLFMError(
                "the U-Net asks for more than a caption, as Stable Diffusion XL does; give Stable Diffusion 1.x or 2.x"
            )
        if steps > scheduler.config.num_train_timesteps:
            raise VLFMError(
                f"inversion.steps is {steps}, but the model knows {scheduler.config.num_train_timesteps} noise levels"
            )
        unet = unet.to(memory_format=torch.channels_last)
        super().__init__(autoencoder, unet, scheduler, prompts, steps, **options)
        self.guidance = guidance
        self.null_text = null_text

    def embed(self, captions: Sequence[str]) -> torch.Tensor:
        """Captions → what the U-Net attends to, (B, L, D) float32: L tokens, padded, of the text tower's width D."""
        return self.prompts(captions, self.device)[0]

    def predictor(self, embeddings: torch.Tensor) -> ddim.NoisePredictor:
        """The U-Net at given embeddings, (B, L, D) or (1, L, D): (state, timestep) → its output, both float32.

        Differentiable in the embeddings and in the state.
        """
        embeddings = embeddings.to(self.device, self.network.dtype)

        def predict(state: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            sample = state.to(self.network.dtype).contiguous(memory_format=torch.channels_last)
            seen = embeddings.expand(len(state), -1, -1)
            return self.network(sample, timestep, encoder_hidden_states=seen).sample.float()

        return predict

    def invert_guided(
        self, frames: torch.Tensor, caption: str, batch_size: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames of one clip → their latents u, and the null text with which `generate` leads back to them.

        The latents are those of `invert`. See `vlfm.decoders.null_text.optimise`.

        Args:
            frames: (N, 3, H, W).
            caption: of the clip.
            batch_size: frames at a time, and an eighth of them where gradients are kept; None for the decoder's own.

        Returns:
            (N, C, h, w) and (K, L, D), one embedding a step walked, float32.
        """
        size = batch_size or self.batch_size or len(frames)
        seen, empty = self.embed([caption]), self.embed([""])
        walks = [
            ddim.trajectory(
                self.predictor(seen), self.encode(part), self.scheduler, self.steps, self.refine, self.depth
            )
            for part in frames.split(size)
        ]
        pivots = [torch.cat(states) for states in zip(*walks, strict=True)]
        optimised = optimise(
            self._predict,
            pivots,
            seen[0],
            empty[0],
            self.scheduler,
            self.guidance,
            self.null_text,
            steps=self.steps,
            chunk=max(1, size // GRADIENT_COST),
        )
        return pivots[-1], optimised

    def generate(
        self, latents: torch.Tensor, captions: Captions = None, null_text: torch.Tensor | None = None
    ) -> torch.Tensor:
        if null_text is None:
            return super().generate(latents, captions)
        walked = walked_steps(self.steps, self.depth)
        if len(null_text) != walked:
            raise VLFMError(
                f"the null text is of {len(null_text)} steps, but inversion.steps {self.steps} at inversion.depth "
                f"{self.depth:g} are {walked} steps; invert again"
            )
        each = null_text.to(self.device, torch.float32)

        def run(part: torch.Tensor, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
            noise = guided(self._predict, seen[0], each, self.guidance)
            state = part.to(self.device)
            return self.decode(ddim.generate(noise, state, self.scheduler, self.steps, self.depth))

        return self._in_batches(run, latents, captions)

    def _predict(self, state: torch.Tensor, timestep: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        return self.predictor(embeddings)(state, timestep)

    def _to_noise(self, latents: torch.Tensor, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return ddim.invert(self.predictor(seen[0]), latents, self.scheduler, self.steps, self.refine, self.depth)

    def _from_noise(self, latents: torch.Tensor, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return ddim.generate(self.predictor(seen[0]), latents, self.scheduler, self.steps, self.depth)

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        vae: Path | str | None = None,
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """A located diffusers folder, on the CPU.

        Args:
            vae: the folder of the autoencoder; None for its own.
            dtype: of the U-Net.
            vae_dtype: of the autoencoder.
            options: steps, refine, captioned, batch_size, compile, depth, guidance, null_text.
        """
        folder = Path(folder)
        return cls(
            LatentAutoencoder.from_folder(vae or folder / "vae", vae_dtype),
            load_network(UNet2DConditionModel, folder, "unet", dtype),
            ddim_scheduler(read_json(folder / "scheduler" / "scheduler_config.json")),
            Prompts(clip_tower(folder)),
            **options,
        )


def ddim_scheduler(settings: dict[str, Any]) -> DDIMScheduler:
    """DDIM at the noise levels of a scheduler of any class (PNDM in Stable Diffusion 1.5).

    What no inversion could undo is left out: thresholding, and clipping, which is on by default where another class's
    file does not speak of it. The spacing `linspace`, which diffusers' inverse scheduler does not have, becomes
    `leading`.
    """
    known = set(inspect.signature(DDIMScheduler).parameters)
    known -= {"thresholding", "dynamic_thresholding_ratio", "sample_max_value", "clip_sample_range"}
    chosen = {key: value for key, value in settings.items() if key in known} | {"clip_sample": False}
    if chosen.get("timestep_spacing") not in ("leading", "trailing"):
        chosen["timestep_spacing"] = "leading"
    return DDIMScheduler(**chosen)


def clip_tower(folder: Path) -> Callable[[torch.device], TextTower]:
    """Loads the CLIP tokenizer and text encoder of a diffusers folder, float32: its last hidden state, (1, L, D)."""

    def load(device: torch.device) -> TextTower:
        from transformers import CLIPTextModel, CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        model = load_network(CLIPTextModel, folder, "text_encoder", torch.float32).to(device)
        length = min(tokenizer.model_max_length, model.config.max_position_embeddings)

        def embed(caption: str) -> tuple[torch.Tensor]:
            tokens = tokenizer(caption, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            return (model(tokens.input_ids.to(device)).last_hidden_state,)

        return embed

    return load
