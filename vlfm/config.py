"""The schema of `config.yaml`: one typed place for every key.

Defaults live in `config.yaml` alone; the schema has none, so that the two cannot disagree.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlfm.artifacts import write_bytes
from vlfm.errors import VLFMError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Frozen, and a key nobody knows is an error rather than a silent no-op."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Clips(Section):
    index: str
    fps: Positive
    duration: Positive
    size: Annotated[int, Field(ge=8)]
    shard_size: Count
    image: Literal["png", "jpg"]
    shot_threshold: Positive
    decoder: Literal["decord", "ffmpeg"]
    timeout: Positive
    max_bad: Share

    @property
    def num_frames(self) -> int:
        """N, the frames of a clip."""
        return round(self.fps * self.duration)

    @model_validator(mode="after")
    def _whole_frames(self):
        if self.num_frames < 2 or abs(self.fps * self.duration - self.num_frames) > 1e-6:
            raise ValueError(
                f"fps × duration must be a whole number of frames, at least 2; it is {self.fps * self.duration:g}"
            )
        return self


class Embedded(Section):
    """The decoder that is trained on the clips; the others are loaded."""

    patch: Count
    channels: Count
    holdout: Share
    unet_channels: Annotated[list[Annotated[int, Field(ge=32, multiple_of=32)]], Field(min_length=1)]
    steps: Count
    batch_size: Count
    learning_rate: Positive


class Decoder(Section):
    name: Literal["embedded", "stable-diffusion", "autoencoder", "rectified-flow"]
    model: str | None
    vae: str | None
    embedded: Embedded

    @model_validator(mode="after")
    def _has_a_model(self):
        if self.name != "embedded" and not self.model:
            raise ValueError(f"decoder.model must name a diffusers folder or hub id for decoder.name {self.name}")
        if self.vae and self.name != "stable-diffusion":
            raise ValueError(f"decoder.vae replaces the autoencoder of stable-diffusion; decoder.name is {self.name}")
        return self


class Inversion(Section):
    steps: Count
    refine: Annotated[int, Field(ge=0)]
    prompt: Literal["empty", "caption"]
    guidance: Annotated[float, Field(ge=1)]
    null_text: Annotated[int, Field(ge=0)]
    batch_size: Count | Literal["auto"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: bool
    dtype: Literal["float16", "float32"]

    @model_validator(mode="after")
    def _guidance_needs_null_text(self):
        if (self.guidance > 1) != (self.null_text > 0) or (self.null_text and self.prompt == "empty"):
            raise ValueError(
                "inversion.guidance above 1, inversion.null_text above 0 and inversion.prompt: caption go together: "
                "without null-text optimisation a guided round trip does not close, without guidance it does nothing"
            )
        return self


class Text(Section):
    encoder: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=2, le=512)]


class Flow(Section):
    order: Count
    projection: Literal["lstsq", "euler", "backward", "bilinear", "zoh"]
    ridge: Annotated[float, Field(ge=0)]
    schedule: Literal["exact", "paper"]
    sigma_min: Annotated[float, Field(gt=0, lt=1)]
    renoise: Share
    alpha: Positive


class Model(Section):
    head: Literal["coefficients", "velocity", "direct"]
    patch: Count
    layers: Count
    heads: Count
    head_dim: Count
    gate: Share


class Training(Section):
    optimizer: Literal["grams", "adamw"]
    steps: Count
    batch_size: Count
    accumulate: Count
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    clip: Positive
    ema: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    compile: bool
    gradient_checkpointing: bool
    caption_dropout: Share
    pure_noise: Share
    lead_in: Share
    emphasis: Positive
    weighting: Literal["none", "inverse_energy"]
    workers: Annotated[int, Field(ge=0)]
    max_bad_steps: Count
    checkpoint_every: Count
    keep: Count
    preview_every: Annotated[int, Field(ge=0)]


class Evaluation(Section):
    clips: Count
    fps: Annotated[list[Positive], Field(min_length=1)]
    steps: Count
    solver: Literal["euler", "midpoint", "dopri5"]
    solver_steps: Count
    guidance: Annotated[float, Field(ge=1)]


class Config(Section):
    """Everything a run depends on."""

    seed: Annotated[int, Field(ge=0)]
    clips: Clips
    decoder: Decoder
    inversion: Inversion
    text: Text
    flow: Flow
    model: Model
    training: Training
    evaluation: Evaluation

    @model_validator(mode="after")
    def _sections_agree(self):
        if self.flow.order > self.clips.num_frames:
            raise ValueError(
                f"flow.order is {self.flow.order}, but a clip has only {self.clips.num_frames} frames "
                "(clips.fps × clips.duration): a projection cannot have more orders than frames"
            )
        if self.decoder.name == "embedded":
            # The other decoders say what their latents are when `vlfm prepare-decoder` has read them.
            embedded = self.decoder.embedded
            if self.clips.size % embedded.patch:
                raise ValueError(
                    f"clips.size is {self.clips.size}, which decoder.embedded.patch = {embedded.patch} does not divide"
                )
            if embedded.channels > 3 * embedded.patch**2:
                raise ValueError(
                    f"decoder.embedded.channels is {embedded.channels}, more than the {3 * embedded.patch**2} "
                    "numbers of a patch (3 × patch²)"
                )
            positions = self.clips.size // embedded.patch
            self.check_model((embedded.channels, positions, positions))
        if self.training.pure_noise + self.training.lead_in > 1:
            raise ValueError("training.pure_noise + training.lead_in is more than 1")
        if self.training.batch_size % self.training.accumulate:
            raise ValueError(
                f"training.batch_size is {self.training.batch_size}, which training.accumulate = "
                f"{self.training.accumulate} does not divide"
            )
        return self

    def check_model(self, shape: tuple[int, int, int]) -> None:
        """Check the network's size against latents (C, h, w); raises `ValueError`."""
        channels, height, width = shape
        if height % self.model.patch or width % self.model.patch:
            raise ValueError(
                f"latents are {height}×{width} positions, which model.patch = {self.model.patch} does not divide; "
                "change clips.size"
            )
        if self.model.head != "coefficients":
            return
        breadth = self.model.heads * self.model.head_dim
        needed = self.model.patch**2 * channels * self.flow.order
        if breadth < needed:
            raise ValueError(
                f"model.heads × model.head_dim is {breadth}, less than the {needed} numbers a token must emit "
                "(model.patch² × latent channels × flow.order): the last layer would be a low-rank bottleneck"
            )


def parse(values: Mapping[str, Any], where: str = "config") -> Config:
    """Check a mapping against the schema.

    Raises:
        VLFMError: one line per wrong key: its dotted name, what was given and what is allowed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                lines.append(f"{key}: no such key; see config.yaml for all of them")
            elif item["type"] == "missing":
                lines.append(f"{key}: missing")
            elif item["type"] == "value_error":
                lines.append(": ".join(part for part in (key, str(item["ctx"]["error"])) if part))
            else:
                lines.append(f"{key}: {item['msg']}; it is {item['input']!r}")
        raise VLFMError(f"{where} is not valid:\n" + "\n".join(f"  {line}" for line in lines)) from None


def load(path: Path | str) -> Config:
    """Read and check a complete configuration file.

    Raises:
        VLFMError: if the file is missing, no YAML mapping, or does not fit the schema.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise VLFMError(
            f"no configuration at {path}; `snakemake` writes results/config.yaml, or pass --config"
        ) from None
    except yaml.YAMLError as error:
        raise VLFMError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise VLFMError(f"{path} holds no mapping of keys")
    return parse(values, str(path))


def save(config: Config, path: Path | str) -> None:
    """Write a configuration that `load` reads, atomically."""
    write_bytes(path, yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True).encode())


def settings(config: Config, *sections: str) -> dict[str, Any]:
    """The named sections or dotted keys of a configuration, as plain values: what one stage depends on.

    A stage's fingerprint and its rule's `params` are made of this, so that a change elsewhere reruns nothing.
    """
    values = json.loads(config.model_dump_json())
    chosen = {}
    for name in sections:
        value: Any = values
        for part in name.split("."):
            value = value[part]
        chosen[name] = value
    return chosen
