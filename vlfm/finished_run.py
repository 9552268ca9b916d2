"""A finished run, to read from: its clips, latents, decoder and model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from vlfm import config as configs
from vlfm.clips.shards import DecodedClip, read_clips
from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.load import load_decoder
from vlfm.errors import VLFMError
from vlfm.latents.store import ClipLatents, LatentStore
from vlfm.model.flow_model import FlowModel
from vlfm.model.noise import clip_noise
from vlfm.splits import TRAIN
from vlfm.spread import spread
from vlfm.storage.files import read_json
from vlfm.storage.fingerprints import fingerprint


@dataclass
class Run:
    """A finished run, read only.

    Attributes:
        results: its folder.
        shards: names of the shards in the plan.
        device: where networks run.
        splits: shard → `train` or `test`; shards that it lacks hold training clips.
        decoder_folder: where its visual decoder lies, if not in the run's folder.
    """

    config: configs.Config
    results: Path
    shards: Sequence[str]
    device: torch.device
    splits: Mapping[str, str] = field(default_factory=dict)
    decoder_folder: Path | None = None

    def __post_init__(self) -> None:
        self.splits = {shard: self.splits.get(shard, TRAIN) for shard in self.shards}

    @property
    def training_shards(self) -> list[str]:
        """The shards whose clips the run is trained on."""
        return [shard for shard in self.shards if self.splits[shard] == TRAIN]

    @cached_property
    def decoder(self) -> VisualDecoder:
        return load_decoder(self.config, self.decoder_folder or self.results / "decoder", self.device)

    @cached_property
    def model(self) -> FlowModel:
        return FlowModel.from_pretrained(self.results / "model", self.device)

    @cached_property
    def stores(self) -> dict[str, LatentStore]:
        """The latent store of every shard."""
        return {shard: LatentStore(self.results / "latents" / f"{shard}.zarr") for shard in self.shards}

    def identity(self, *sections: str, model: bool = False, **more: Any) -> str:
        """The fingerprint of what an experiment depends on: parts of the configuration and the stages it reads."""
        return fingerprint(
            {
                **configs.settings(self.config, "seed", *sections),
                "decoder": read_json(self.results / "decoder" / "decoder.json")["fingerprint"],
                "latents": {shard: store.fingerprint for shard, store in self.stores.items()},
                "model": read_json(self.results / "model" / "training.json")["fingerprint"] if model else None,
                **more,
            }
        )

    def coder(self, clip: ClipLatents | None = None) -> "Coder":
        """The decoder, set up to invert and generate this clip of the run; without a clip, with the empty caption."""
        if clip is None:
            return Coder(self.decoder, "")
        return Coder(self.decoder, clip.caption, None if clip.null_text is None else torch.from_numpy(clip.null_text))

    def rendered(self, clip: ClipLatents, times: torch.Tensor, model: FlowModel | None = None) -> torch.Tensor:
        """What a model (by default the run's) makes of a clip's caption, with the settings of `evaluation`.

        Args:
            times: (K,) seconds in (0, T].

        Returns:
            Latents (K, C, h, w), on the CPU.
        """
        model, settings = model or self.model, self.config.evaluation
        values = model.latents(
            torch.from_numpy(clip.tokens)[None],
            torch.from_numpy(clip.mask)[None],
            clip_noise(clip.clip_id, self.config.seed, clip.latents.shape[1:])[None],
            times,
            settings.steps,
            duration=clip.duration,
            guidance=settings.guidance,
            solver=settings.solver,
            solver_steps=settings.solver_steps,
        )
        return values[0].cpu()

    def clip_ids(self, limit: int, split: str | None = None) -> list[str]:
        """At most `limit` clips with latents, spread evenly over the run, or over one split of it.

        Only clips with all N frames, if the run has any: experiments withhold frames, or compare orders up to N.
        """
        stores = [self.stores[shard] for shard in self.shards if split in (None, self.splits[shard])]
        full = [name for store in stores for name, length in store.lengths.items() if length == store.num_frames]
        return spread(full or [name for store in stores for name in store.clip_ids], limit)

    def latents(self, clip_id: str) -> ClipLatents:
        """What the latent stores hold of a clip."""
        for store in self.stores.values():
            if clip_id in store.clip_ids:
                return store[clip_id]
        raise VLFMError(f"clip {clip_id} has no latents in {self.results / 'latents'}; run `snakemake` again")

    def frames(self, clip_ids: Iterable[str]) -> dict[str, DecodedClip]:
        """The decoded clips of these names; a shard is read once."""
        wanted, found = set(clip_ids), {}
        for shard in self.shards:
            if wanted & set(self.stores[shard].clip_ids):
                clips = read_clips(self.results / "clips" / f"{shard}.tar", wanted)
                found |= {clip.clip_id: clip for clip in clips}
        if missing := wanted - found.keys():
            raise VLFMError(
                f"clip {min(missing)} has latents but no frames in {self.results / 'clips'}; decode it again"
            )
        return found


@dataclass(frozen=True)
class Coder:
    """A visual decoder with one clip's caption, and null text if it was inverted with guidance; results on the CPU."""

    decoder: VisualDecoder
    caption: str
    null_text: torch.Tensor | None = None

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        return self.decoder.encode(frames).cpu()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder.decode(latents).cpu()

    def invert(self, frames: torch.Tensor) -> torch.Tensor:
        return self.decoder.invert(frames, [self.caption] * len(frames)).cpu()

    def generate(self, latents: torch.Tensor) -> torch.Tensor:
        return self.decoder.generate(latents, [self.caption] * len(latents), self.null_text).cpu()

    def without_null_text(self) -> "Coder":
        """For latents made from a caption, which has none."""
        return Coder(self.decoder, self.caption)
