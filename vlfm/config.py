"""The schema of `config.yaml`: one typed place for every key.

Defaults live in `config.yaml` alone; the schema has none, so that the two cannot disagree.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from vlfm.clips.moving_digits.drawing import SIDE, longest
from vlfm.errors import VLFMError
from vlfm.storage.files import write_bytes

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=8)]


def _one_or_several(value: Any) -> str:
    return "several" if isinstance(value, (list, tuple)) else "one"


def _pairs(value: list[Any]) -> list[Any]:
    if not value or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
        raise ValueError(
            f"it is {value!r}; give the side of a square in pixels, or a list of pairs [height, width], "
            "[[96, 96], [72, 128]] for example"
        )
    return value


Durations = Annotated[
    Annotated[Positive, Tag("one")] | Annotated[list[Positive], Field(min_length=1), Tag("several")],
    Discriminator(_one_or_several),
]
Sizes = Annotated[
    Annotated[Pixels, Tag("one")] | Annotated[list[tuple[Pixels, Pixels]], BeforeValidator(_pairs), Tag("several")],
    Discriminator(_one_or_several),
]


def _one_or_list(value: Any) -> str:
    if isinstance(value, str):
        return "one"
    return "several"


def _bounds(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(
            f"it is {value!r}; give [min, max], null for no bound, or a list of the values that are wanted"
        )
    return value


Condition = Annotated[list[float | str | None], BeforeValidator(_bounds)]


class Section(BaseModel):
    """A frozen section of the configuration; an unknown key is an error, it is not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Digits(Section):
    """The clips that make themselves, where `clips.index` is `moving-digits`."""

    count: Literal[1, 2]
    captions: Count
    clips: Count
    test_clips: Annotated[int, Field(ge=0)]
    wander: Annotated[float, Field(ge=0, le=0.5)]

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.count == 2 and self.wander < SIDE[2]:
            raise ValueError(
                f"wander is {self.wander:g}: two digits would lie on each other in the middle; set it to 0.5"
            )
        return self


class DataSet(Section):
    """One data set of `clips.index`. What most leave out has its default here, as a list has none in config.yaml."""

    dataset: Annotated[str, Field(min_length=1)]
    index: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)]
    videos: str | None = None
    caption: str | None = None
    weight: Positive = 1.0
    where: dict[str, Condition] = {}
    limit: Count | None = None
    windows: Count | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """`index`, whether one or several."""
        return (self.index,) if isinstance(self.index, str) else tuple(self.index)


DataSets = Annotated[
    Annotated[str, Tag("one")] | Annotated[list[DataSet], Field(min_length=1), Tag("several")],
    Discriminator(_one_or_list),
]


class Download(Section):
    """How sources are fetched, not what they are: a change reruns nothing."""

    attempts: Count
    rate: Positive | None
    cache: Positive | None
    largest: Positive


class Clips(Section):
    index: DataSets
    digits: Digits
    fps: Positive
    min_frames: Annotated[int, Field(ge=2)]
    duration: Durations
    size: Sizes
    shard_size: Count
    image: Literal["png", "jpg"]
    shot_threshold: Positive
    decoder: Literal["decord", "ffmpeg"]
    captioner: Annotated[str, Field(min_length=1)] | None
    timeout: Positive
    download: Download
    max_bad: Share

    @property
    def data(self) -> str:
        """What the clips are of, in words."""
        return self.index if isinstance(self.index, str) else ", ".join(entry.dataset for entry in self.index)

    @property
    def durations(self) -> tuple[float, ...]:
        """The lengths T a clip may have, seconds, the shortest first."""
        return tuple(sorted(self.duration)) if isinstance(self.duration, (list, tuple)) else (self.duration,)

    @property
    def shortest(self) -> float:
        """The smallest T, seconds."""
        return self.durations[0]

    @property
    def longest(self) -> float:
        """The largest T, seconds."""
        return self.durations[-1]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The sizes (height, width) a clip's frames may have, pixels, in the order given."""
        if isinstance(self.size, (list, tuple)):
            return tuple((height, width) for height, width in self.size)
        return ((self.size, self.size),)

    def num_frames_of(self, duration: float) -> int:
        """N, the frames of a clip of `duration` seconds."""
        return round(self.fps * duration)

    def duration_near(self, seconds: float) -> float | None:
        """The duration that `seconds` stand for, to half a frame: numbers in a CSV have few decimals."""
        return next((each for each in self.durations if abs(seconds - each) <= 0.5 / self.fps), None)

    def only(self, duration: float, height: int, width: int) -> "Clips":
        """The settings of a run with clips of this one length and size."""
        return self.model_copy(update={"duration": duration, "size": [(height, width)]})

    @model_validator(mode="after")
    def _whole_frames(self) -> Self:
        for duration in self.durations:
            frames = self.num_frames_of(duration)
            if frames < 2 or abs(self.fps * duration - frames) > 1e-6:
                raise ValueError(
                    f"fps × duration must be a whole number of frames, at least 2; it is {self.fps * duration:g}"
                )
        for name, values in (("duration", self.durations), ("size", self.sizes)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} lists a value twice; each makes shards of its own")
        return self

    @model_validator(mode="after")
    def _digits_fit(self) -> Self:
        if self.index != "moving-digits":
            return self
        if len(self.durations) > 1 or len(self.sizes) > 1 or len(set(self.sizes[0])) > 1:
            raise ValueError(
                "moving-digits are clips of one length and one square size: give one duration and one size"
            )
        most = longest(self.digits.count)
        if (self.num_frames_of(self.longest) - 1) / self.fps > most:
            raise ValueError(
                f"duration is {self.longest:g}, and the fastest of the moving-digits is across the picture in "
                f"{most:.2f} s: lower it"
            )
        return self


class Autoencoder(Section):
    """How the embedded decoder's autoencoder is trained, from closed-form patches on; 0 steps leaves it at these."""

    width: Count
    blocks: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    batch_size: Count
    learning_rate: Positive
    precision: Literal["auto", "float32", "bfloat16"]


class Embedded(Section):
    """The decoder that is trained on the clips; the others are loaded."""

    patch: Count
    channels: Count
    holdout: Share
    autoencoder: Autoencoder
    unet_channels: Annotated[list[Annotated[int, Field(ge=32, multiple_of=32)]], Field(min_length=1)]
    steps: Annotated[int, Field(ge=0)]
    batch_size: Count
    learning_rate: Positive

    @property
    def unit(self) -> int:
        """Pixels that both sides of a frame must be multiples of."""
        return self.patch * (2 ** (len(self.unet_channels) - 1) if self.steps else 1)


class Decoder(Section):
    name: Literal["embedded", "stable-diffusion", "autoencoder", "rectified-flow"]
    model: str | None
    vae: str | None
    embedded: Embedded

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.name != "embedded" and not self.model:
            raise ValueError(f"decoder.model must name a diffusers folder or hub id for decoder.name {self.name}")
        if self.vae and self.name != "stable-diffusion":
            raise ValueError(f"decoder.vae replaces the autoencoder of stable-diffusion; decoder.name is {self.name}")
        return self


class Inversion(Section):
    depth: Share
    steps: Count
    refine: Annotated[int, Field(ge=0)]
    prompt: Literal["empty", "caption"]
    guidance: Annotated[float, Field(ge=1)]
    null_text: Annotated[int, Field(ge=0)]
    batch_size: Count | Literal["auto"]
    precision: Literal["auto", "float32", "bfloat16"]
    compile: bool
    dtype: Literal["float16", "float32"]
    check: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _guidance_needs_null_text(self) -> Self:
        if (self.guidance > 1) != (self.null_text > 0) or (self.null_text and self.prompt == "empty"):
            raise ValueError(
                "inversion.guidance above 1, inversion.null_text above 0 and inversion.prompt: caption go together: "
                "without null-text optimisation a guided round trip does not close, without guidance it does nothing"
            )
        if self.null_text and not self.depth:
            raise ValueError(
                "inversion.null_text guides the way back from inversion.depth, which is 0: there is none; set a depth "
                "above 0, or inversion.null_text: 0 and inversion.guidance: 1"
            )
        return self


class Text(Section):
    encoder: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=2, le=512)]


class Flow(Section):
    basis: Literal["legendre", "cosine"]
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
    convolution: Annotated[int, Field(ge=0)]
    caption_in_adaln: bool

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.convolution and self.convolution % 2 == 0:
            raise ValueError(f"model.convolution is {self.convolution}; its side must be odd, 5 say, or 0 for none")
        return self


class Training(Section):
    # How training runs, not what it gives, up to rounding: a change reruns nothing, and a run may go on with another.
    HOW: ClassVar[tuple[str, ...]] = (
        "accumulate",
        "compile",
        "deterministic",
        "updates",
        "gradient_checkpointing",
        "nodes",
        "processes",
        "workers",
        "max_bad_steps",
        "checkpoint_every",
        "keep",
        "preview_every",
    )

    optimizer: Literal["grams", "adamw", "muon"]
    steps: Count
    batch_size: Count
    accumulate: Count
    learning_rate: Positive
    warmup: Annotated[int, Field(ge=0)]
    clip: Positive
    ema: Annotated[float, Field(ge=0, lt=1)]
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    compile: bool
    deterministic: bool
    updates: Literal["auto", "asked", "trusted"]
    gradient_checkpointing: bool
    caption_dropout: Share
    pure_noise: Share
    lead_in: Share
    emphasis: Positive
    weighting: Literal["none", "inverse_energy"]
    workers: Annotated[int, Field(ge=0)]
    nodes: Count
    processes: Count
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


class Generation(Section):
    captions: Count
    seeds: Count
    steps: Annotated[list[Count], Field(min_length=1)]
    features: Annotated[str, Field(min_length=1)]


class Experiments(Section):
    clips: Count
    scenes: Annotated[int, Field(ge=0)]
    videos: Annotated[int, Field(ge=0)]
    extend: Annotated[float, Field(gt=1)]
    orders: Annotated[list[Count], Field(min_length=1)] | None
    ablation_steps: Count
    baseline_seconds: Positive
    baseline_seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    baseline_steps: Annotated[list[Count], Field(min_length=1)]
    depths: Annotated[list[Share], Field(min_length=1)]
    depth_steps: Count
    depth_clips: Count


class Config(Section):
    """Everything a run depends on."""

    seed: Annotated[int, Field(ge=0)]
    latents_from: Annotated[str, Field(min_length=1)] | None
    clips: Clips
    decoder: Decoder
    inversion: Inversion
    text: Text
    flow: Flow
    model: Model
    training: Training
    evaluation: Evaluation
    generation: Generation
    experiments: Experiments

    @model_validator(mode="after")
    def _recurrences_are_legendres(self) -> Self:
        if self.flow.projection != "lstsq" and self.flow.basis != "legendre":
            raise ValueError(
                f"flow.projection is {self.flow.projection}, a recurrence for Legendre polynomials, but flow.basis is "
                f"{self.flow.basis}: set flow.basis to legendre, or flow.projection to lstsq"
            )
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        frames = self.clips.num_frames_of(self.clips.shortest)
        if self.flow.order > frames:
            raise ValueError(
                f"flow.order is {self.flow.order}, but a clip has only {frames} frames "
                "(clips.fps × the shortest clips.duration): a projection cannot have more orders than frames"
            )
        if min(self.evaluation.fps) * self.clips.shortest < 1 - 1e-6:
            raise ValueError(
                f"evaluation.fps has {min(self.evaluation.fps):g}, at which a clip of {self.clips.shortest:g} s has no "
                f"frame: ask for {1 / self.clips.shortest:g} or more"
            )
        if self.decoder.name == "embedded":
            # The other decoders say what their latents are when `vlfm prepare-decoder` has read them.
            embedded = self.decoder.embedded
            if embedded.channels > 3 * embedded.patch**2:
                raise ValueError(
                    f"decoder.embedded.channels is {embedded.channels}, more than the {3 * embedded.patch**2} "
                    "numbers of a patch (3 × patch²)"
                )
            if self.inversion.depth and not embedded.steps:
                raise ValueError(
                    f"inversion.depth is {self.inversion.depth:g}, which walks with a noise predictor, but "
                    "decoder.embedded.steps is 0, which trains none: set inversion.depth to 0, or steps above 0"
                )
            unit = embedded.unit
            for height, width in self.clips.sizes:
                if height % unit or width % unit:
                    raise ValueError(
                        f"clips.size is {height}×{width} (height × width), and both sides must be multiples of {unit}: "
                        "decoder.embedded.patch, doubled for every entry of decoder.embedded.unet_channels but one "
                        "where decoder.embedded.steps is above 0"
                    )
                self.check_model((embedded.channels, height // embedded.patch, width // embedded.patch))
        if self.text.encoder == "clip" and not self.decoder.model:
            raise ValueError(
                "text.encoder clip is the text tower of decoder.model, which is null: name a folder or hub id there"
            )
        if self.inversion.null_text and self.decoder.name != "stable-diffusion":
            raise ValueError(
                f"inversion.null_text needs decoder.name stable-diffusion; {self.decoder.name} takes no guidance"
            )
        if self.training.pure_noise + self.training.lead_in > 1:
            raise ValueError("training.pure_noise + training.lead_in is more than 1")
        train = self.training
        if train.batch_size % (train.accumulate * train.nodes * train.processes):
            raise ValueError(
                f"training.batch_size is {train.batch_size}, which training.accumulate × nodes × processes = "
                f"{train.accumulate} × {train.nodes} × {train.processes} does not divide"
            )
        if self.evaluation.guidance > 1 and not train.caption_dropout:
            raise ValueError(
                f"evaluation.guidance is {self.evaluation.guidance:g}, and training.caption_dropout is 0: guidance "
                "needs a network that was trained without captions too; set caption_dropout to 0.1 for example, or "
                "guidance to 1"
            )
        return self

    @property
    def predictor_steps(self) -> int:
        """Training steps of the embedded decoder's noise predictor; at depth 0 nothing walks, and there is none."""
        return self.decoder.embedded.steps if self.inversion.depth else 0

    def made_in(self, results: Path) -> Path:
        """The results folder in which the clips and latents of the run in `results` were made: its own, or another
        run's (`latents_from`)."""
        return results if self.latents_from is None else results.parent / self.latents_from

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
            key = _dotted(item["loc"], values)
            if item["type"] == "extra_forbidden":
                lines.append(f"{key}: no such key; see config.yaml for all of them")
            elif item["type"] == "missing":
                lines.append(f"{key}: missing")
            elif item["type"] == "value_error":
                lines.append(": ".join(part for part in (key, str(item["ctx"]["error"])) if part))
            else:
                lines.append(f"{key}: {item['msg']}; it is {item['input']!r}")
        raise VLFMError(f"{where} is not valid:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _dotted(location: tuple[str | int, ...], values: Any) -> str:
    """The dotted name of a key, without what pydantic adds about the type it tried."""
    parts = []
    for part in location:
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, (list, tuple)) and isinstance(part, int):
            values = values[part] if part < len(values) else None
        else:
            continue
        parts.append(str(part))
    return ".".join(parts)


def load(*paths: Path | str) -> Config:
    """Read and check a configuration: one complete file, or several whose keys are laid over each other in order.

    Raises:
        VLFMError: if a file is missing or no YAML mapping, or together they do not fit the schema.
    """
    values: dict[str, Any] = {}
    for path in paths:
        values = _merged(values, _read(path))
    return parse(values, " with ".join(map(str, paths)))


def laid_over(config: Config, path: Path | str) -> Config:
    """A configuration with the keys of a file in place of its own. The file may lack keys: an older version wrote it.

    Raises:
        VLFMError: as `load` does.
    """
    return parse(_merged(config.model_dump(mode="json"), _read(path)), str(path))


def _read(path: Path | str) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise VLFMError(
            f"no configuration at {path}; `snakemake` writes results/config.yaml, or pass --config config.yaml"
        ) from None
    except yaml.YAMLError as error:
        raise VLFMError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise VLFMError(f"{path} holds no mapping of keys")
    return values


def _merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `change`, mappings merged key by key, as Snakemake does with several --configfile."""
    both = {key: _merged(base[key], change[key]) for key in base.keys() & change.keys() if _nested(base, change, key)}
    return {**base, **change, **both}


def _nested(base: Mapping[str, Any], change: Mapping[str, Any], key: str) -> bool:
    return isinstance(base[key], Mapping) and isinstance(change[key], Mapping)


def as_yaml(config: Config) -> str:
    """A configuration as the text of a file that `load` reads."""
    text: str = yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)
    return text


def save(config: Config, path: Path | str) -> None:
    """Write a configuration that `load` reads, atomically."""
    write_bytes(path, as_yaml(config).encode())


def settings(config: Config, *sections: str) -> dict[str, Any]:
    """The named sections or dotted keys of a configuration, as plain values: what one stage depends on.

    A stage's fingerprint and its rule's `params` are made of this, so that a change elsewhere reruns nothing. Keys
    that change no result (`Training.HOW`) are left out. For an autoencoder `inversion.depth` counts as 0. At depth 0
    `decoder.embedded.steps` counts as 0 too, since no noise predictor is trained.
    """
    values = json.loads(config.model_dump_json())
    if config.decoder.name == "autoencoder":
        values["inversion"]["depth"] = 0.0
    if config.decoder.name == "embedded":
        values["decoder"]["embedded"]["steps"] = config.predictor_steps
    values["training"] = {key: value for key, value in values["training"].items() if key not in Training.HOW}
    chosen = {}
    for name in sections:
        value: Any = values
        for part in name.split("."):
            value = value[part]
        chosen[name] = value
    return chosen
