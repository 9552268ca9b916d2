"""Rectified flow (Stable Diffusion 3 and its like): a visual decoder inverted by its own ODE.

The network gives the velocity v of `dx/dσ = v(x, σ)` between noise, σ = 1, and latents, σ = 0. Generation is Euler's
method on the scheduler's own σ; inversion solves the same steps backwards.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from vlfm.decoders.autoencoder import LatentAutoencoder
from vlfm.decoders.prompted import PromptedDecoder, Prompts, TextTower
from vlfm.errors import VLFMError
from vlfm.storage.files import read_json
from vlfm.weights import load_network

PARTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "vae")
# The T5 tower: 9 GB that the model was trained to do without. Used where the folder has it, never fetched.
OPTIONAL_PARTS = ("text_encoder_3", "tokenizer_3")

# (state, timestep of the scheduler) → velocity, both float32.
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def noise_levels(
    scheduler: FlowMatchEulerDiscreteScheduler, steps: int, tokens: int
) -> tuple[list[float], torch.Tensor]:
    """σ before and after each step, steps + 1 numbers from 1 to 0, and the network's timestep at each step, (steps,).

    Args:
        scheduler: its shift included.
        tokens: that the network sees of a frame; a dynamic shift depends on them.
    """
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    config = scheduler.config
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    mu = None
    if config.use_dynamic_shifting:
        mu = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
    scheduler.set_timesteps(steps, mu=mu)
    return scheduler.sigmas.tolist(), scheduler.timesteps


def up_to(depth: float, sigmas: list[float], timesteps: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    """The part of `noise_levels` between latents and the step that begins nearest to σ = `depth`: one step at least.

    Depth is the flow's time, not a share of its steps: a shift crowds them near noise (shift 3: half of them above
    σ = ¾). Latents of unit variance have a variance of (1 − σ)² + σ² there, ½ at least.
    """
    start = min(range(len(timesteps)), key=lambda step: abs(sigmas[step] - depth))
    return sigmas[start:], timesteps[start:]


@torch.no_grad()
def generate(velocity: Velocity, noise: torch.Tensor, sigmas: list[float], timesteps: torch.Tensor) -> torch.Tensor:
    """Walk noise (B, C, h, w) to latents: `x ← x + (σ' − σ) v(x, σ)`, a step from σ to σ' < σ. float32."""
    state = noise.float()
    for step, timestep in enumerate(timesteps.to(state.device)):
        state = state + (sigmas[step + 1] - sigmas[step]) * velocity(state, timestep)
    return state


@torch.no_grad()
def invert(
    velocity: Velocity, latents: torch.Tensor, sigmas: list[float], timesteps: torch.Tensor, refine: int = 0
) -> torch.Tensor:
    """Walk latents (B, C, h, w) to their noise: the inverse of `generate`, step by step.

    The state x before a step solves `x = y − (σ' − σ) v(x, σ)`, y the state after it. Each of the `refine`
    fixed-point iterations evaluates v at the solution so far; the first evaluation takes it at y.
    """
    state = latents.float()
    timesteps = timesteps.to(state.device)
    for step in reversed(range(len(timesteps))):
        before = state
        for _ in range(1 + refine):
            before = state - (sigmas[step + 1] - sigmas[step]) * velocity(before, timesteps[step])
        state = before
    return state


class RectifiedFlowDecoder(PromptedDecoder):
    """Autoencoder + rectified flow over an `SD3Transformer2DModel`; see `VisualDecoder` for the methods.

    Args:
        autoencoder: frames ↔ latents.
        transformer: the velocity in such latents.
        scheduler: its σ.
        prompts: captions → embeddings (B, L, D) and pooled ones (B, P).
        steps: Euler steps from picture to noise, and back.
        options: refine, captioned, batch_size, compile, depth, as `PromptedDecoder` takes them.

    Raises:
        VLFMError: for a transformer of other latents than the autoencoder's.
    """

    def __init__(
        self,
        autoencoder: LatentAutoencoder,
        transformer: SD3Transformer2DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        prompts: Prompts,
        steps: int = 28,
        **options: Any,
    ):
        if transformer.config.in_channels != autoencoder.channels:
            raise VLFMError(
                f"the transformer takes {transformer.config.in_channels} channels, the autoencoder has "
                f"{autoencoder.channels}; give a text-to-image Stable Diffusion 3"
            )
        super().__init__(autoencoder, transformer, scheduler, prompts, steps, **options)

    @property
    def patch(self) -> int:
        return self.network.config.patch_size

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        shape = super().latent_shape(height, width)
        largest = self.network.config.pos_embed_max_size
        if largest and max(shape[1:]) > largest * self.patch:
            side = largest * self.patch * self.autoencoder.unit
            raise VLFMError(
                f"frames of {width}×{height} pixels are larger than the model has positions for; at most {side}×{side}"
            )
        return shape

    def velocity(self, embeddings: torch.Tensor, pooled: torch.Tensor) -> Velocity:
        """The transformer at given embeddings, (B, L, D) and (B, P), or (1, …): (state, timestep) → v."""
        dtype = self.network.dtype
        embeddings, pooled = embeddings.to(self.device, dtype), pooled.to(self.device, dtype)

        def predict(state: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            count = len(state)
            return self.network(
                hidden_states=state.to(dtype),
                timestep=timestep.expand(count),
                encoder_hidden_states=embeddings.expand(count, -1, -1),
                pooled_projections=pooled.expand(count, -1),
            ).sample.float()

        return predict

    def _levels(self, latents: torch.Tensor) -> tuple[list[float], torch.Tensor]:
        tokens = (latents.shape[-2] // self.patch) * (latents.shape[-1] // self.patch)
        return up_to(self.depth, *noise_levels(self.scheduler, self.steps, tokens))

    def _to_noise(self, latents: torch.Tensor, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return invert(self.velocity(*seen), latents, *self._levels(latents), self.refine)

    def _from_noise(self, latents: torch.Tensor, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return generate(self.velocity(*seen), latents, *self._levels(latents))

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        parts: tuple[str, ...] = PARTS,
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """A located diffusers folder, on the CPU.

        Args:
            parts: of it that are used, the T5 tower only if it is named.
            dtype: of the transformer, and of T5.
            vae_dtype: of the autoencoder.
            options: steps, refine, captioned, batch_size, compile, depth.
        """
        folder = Path(folder)
        autoencoder = LatentAutoencoder.from_folder(folder / "vae", vae_dtype)
        transformer = load_network(SD3Transformer2DModel, folder, "transformer", dtype)
        settings = read_json(folder / "scheduler" / "scheduler_config.json")
        name = settings.get("_class_name")
        if name != "FlowMatchEulerDiscreteScheduler":
            raise VLFMError(
                f"{folder / 'scheduler'} is of a {name}; a rectified flow has a FlowMatchEulerDiscreteScheduler"
            )
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(settings)
        towers = Prompts(sd3_towers(folder, "text_encoder_3" in parts, autoencoder, transformer, scheduler))
        return cls(autoencoder, transformer, scheduler, towers, **options)


def sd3_towers(
    folder: Path,
    with_t5: bool,
    autoencoder: LatentAutoencoder,
    transformer: SD3Transformer2DModel,
    scheduler: FlowMatchEulerDiscreteScheduler,
) -> Callable[[torch.device], TextTower]:
    """Loads two CLIP towers (float32) and, if wanted, T5, joined as diffusers' own pipeline joins them."""

    def load(device: torch.device) -> TextTower:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel
        from transformers.utils import logging

        verbosity = logging.get_verbosity()
        # The pipeline's module names picture processors that it never uses here, and says that torchvision is missing.
        logging.set_verbosity_error()
        from diffusers import StableDiffusion3Pipeline

        logging.set_verbosity(verbosity)
        clip = {
            f"{kind}{suffix}": load_network(CLIPTextModelWithProjection, folder, f"{kind}{suffix}", torch.float32)
            if kind == "text_encoder"
            else CLIPTokenizer.from_pretrained(folder / f"{kind}{suffix}", local_files_only=True)
            for kind in ("text_encoder", "tokenizer")
            for suffix in ("", "_2")
        }
        t5 = {"text_encoder_3": None, "tokenizer_3": None}
        if with_t5:
            t5["text_encoder_3"] = load_network(T5EncoderModel, folder, "text_encoder_3", transformer.dtype).to(device)
            t5["tokenizer_3"] = AutoTokenizer.from_pretrained(folder / "tokenizer_3", local_files_only=True)
        for name in ("text_encoder", "text_encoder_2"):
            clip[name].to(device)
        pipeline = StableDiffusion3Pipeline(
            transformer=transformer, scheduler=scheduler, vae=autoencoder.network, **clip, **t5
        )

        def embed(caption: str) -> tuple[torch.Tensor, torch.Tensor]:
            embeddings, _, pooled, _ = pipeline.encode_prompt(
                caption, None, None, device=device, do_classifier_free_guidance=False
            )
            return embeddings, pooled

        return embed

    return load
