"""What decoders with a generative model and a prompt share: an autoencoder, captions embedded once, batches."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from diffusers import SchedulerMixin

from vlfm.decoders.autoencoder import LatentAutoencoder
from vlfm.decoders.base import Captions, VisualDecoder, check_size, refuse_null_text

# One caption → what the network sees of it, each (1, …) float32.
TextTower = Callable[[str], tuple[torch.Tensor, ...]]


class Prompts:
    """Embeddings of captions, each computed once in the life of the decoder.

    The text tower is loaded when a caption is first asked for, and captions go through it one at a time, so that
    an embedding does not depend on its neighbours: a run that was killed and resumed groups them otherwise.

    Args:
        load: the device → the text tower on it.
    """

    def __init__(self, load: Callable[[torch.device], TextTower]):
        self._load = load
        self._tower: TextTower | None = None
        self._known: dict[str, tuple[torch.Tensor, ...]] = {}

    @torch.no_grad()
    def __call__(self, captions: Sequence[str], device: torch.device) -> tuple[torch.Tensor, ...]:
        """Embeddings of B captions, each (B, …) float32 on `device`."""
        for caption in dict.fromkeys(captions):
            if caption not in self._known:
                self._tower = self._tower or self._load(device)
                self._known[caption] = tuple(embedding.float() for embedding in self._tower(caption))
        rows = [self._known[caption] for caption in captions]
        return tuple(torch.cat(column).to(device) for column in zip(*rows, strict=True))

    def release(self) -> None:
        """Let go of the text tower; what is embedded stays known."""
        self._tower = None


class PromptedDecoder(VisualDecoder):
    """A generative model over an autoencoder's latents, which sees captions or the empty one.

    Subclasses walk the latents; see `VisualDecoder` for the methods.

    Args:
        autoencoder: frames ↔ latents.
        network: the generative model.
        scheduler: diffusers', the noise levels it was trained on.
        prompts: captions → embeddings.
        steps: of a walk from picture to noise, and back.
        refine: fixed-point refinements a step of inversion.
        depth: how far of it is walked, see `vlfm.decoders.inversion_depth`. At 0 neither the network nor the text
            tower is used.
        captioned: whether the network sees each frame's caption (`inversion.prompt: caption`); otherwise the empty
            one stands for every caption, and is embedded once.
        batch_size: frames walked at a time; None for all that are given.
        compile: torch.compile the network.
    """

    def __init__(
        self,
        autoencoder: LatentAutoencoder,
        network: torch.nn.Module,
        scheduler: SchedulerMixin,
        prompts: Prompts,
        steps: int,
        refine: int = 0,
        captioned: bool = False,
        batch_size: int | None = None,
        compile: bool = False,
        depth: float = 1.0,
    ):
        self.autoencoder = autoencoder
        self.network = network.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.prompts = prompts
        self.steps = steps
        self.refine = refine
        self.depth = depth
        self.captioned = captioned
        self.batch_size = batch_size
        if compile:
            self.network.compile()

    @property
    def device(self) -> torch.device:
        return self.network.device

    def to(self, device: torch.device | str) -> Self:
        self.autoencoder.to(device)
        self.network.to(device)
        self.prompts.release()
        return self

    @property
    def patch(self) -> int:
        """Latent positions along the side of what the network takes as one."""
        return 1

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        check_size(height, width, self.autoencoder.unit * self.patch)
        return self.autoencoder.channels, height // self.autoencoder.unit, width // self.autoencoder.unit

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.encode(frames)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.autoencoder.decode(latents)

    def invert(self, frames: torch.Tensor, captions: Captions = None) -> torch.Tensor:
        if not self.depth:
            return self.encode(frames)
        return self._in_batches(lambda part, seen: self._to_noise(self.encode(part), seen), frames, captions)

    def generate(
        self, latents: torch.Tensor, captions: Captions = None, null_text: torch.Tensor | None = None
    ) -> torch.Tensor:
        refuse_null_text(self, null_text)
        if not self.depth:
            return self.decode(latents)
        return self._in_batches(
            lambda part, seen: self.decode(self._from_noise(part.to(self.device), seen)), latents, captions
        )

    @abstractmethod
    def _to_noise(self, latents: torch.Tensor, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Walk autoencoder latents (B, C, h, w) to u, at a depth above 0; `seen` are embeddings, (B, …) or (1, …)."""

    @abstractmethod
    def _from_noise(self, latents: torch.Tensor, seen: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Walk u back to autoencoder latents."""

    def seen(self, captions: Captions) -> tuple[torch.Tensor, ...]:
        """The embeddings that the network sees for frames with these captions, (B, …); (1, …) where all are alike."""
        captions = list(captions) if captions and self.captioned else [""]
        if len(set(captions)) == 1:
            captions = captions[:1]
        embeddings = self.prompts(captions, self.device)
        if not self.captioned:
            self.prompts.release()
        return embeddings

    def _in_batches(self, run, values: torch.Tensor, captions: Captions) -> torch.Tensor:
        size = self.batch_size or len(values)
        return torch.cat(
            [
                run(values[start : start + size], self.seen(captions[start : start + size] if captions else None))
                for start in range(0, len(values), size)
            ]
        )
