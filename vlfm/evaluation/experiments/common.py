"""What the experiments share: a finished run to read from, tables, figures, videos, and going on where one stopped."""

import contextlib
import csv
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlfm import config as configs
from vlfm.artifacts import fingerprint, progress, read_json, write_bytes, write_json
from vlfm.clips.shards import DecodedClip, read_clips
from vlfm.errors import VLFMError
from vlfm.evaluation.metrics import mean_interval
from vlfm.evaluation.render import clip_noise
from vlfm.latents.decoder import VisualDecoder
from vlfm.latents.frames import to_uint8
from vlfm.latents.load import load_decoder
from vlfm.latents.store import ClipLatents, LatentStore
from vlfm.media import write_mp4
from vlfm.model.flow_model import FlowModel
from vlfm.splits import TRAIN

Row = dict[str, Any]

# The paper's methods, and what stands beside them, in colours that colour-blind readers tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


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
        """The decoder as a clip of the run is inverted and generated with it; by default without any caption."""
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
        """At most `limit` clips with latents, spread evenly over the run, or over one split of it."""
        shards = [shard for shard in self.shards if split in (None, self.splits[shard])]
        return spread([clip_id for shard in shards for clip_id in self.stores[shard].clip_ids], limit)

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
                clips = read_clips(self.results / "clips" / f"{shard}.tar")
                found |= {clip.clip_id: clip for clip in clips if clip.clip_id in wanted}
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


def spread(items: Sequence, limit: int) -> list:
    """At most `limit` of the items, evenly spaced, in order."""
    if len(items) <= limit:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, limit).round().astype(int)]


@contextlib.contextmanager
def kept(folder: Path, identity: str) -> Iterator[Callable[..., Any]]:
    """Yield `measured(key, make, …)`: what `make(…)` returned for a key, now or before the job was killed.

    Results (JSON) lie beside the experiment's other files until the block ends well; those of another identity are
    not read.
    """
    partial = folder / f".partial-{identity}"
    partial.mkdir(parents=True, exist_ok=True)

    def measured(key: str, make: Callable[..., Any], *arguments: Any) -> Any:
        path = partial / f"{key}.json"
        if not path.exists():
            write_json(path, make(*arguments))
        return read_json(path)

    yield measured
    shutil.rmtree(partial)


def watched(items: Iterable, what: str) -> Iterator:
    """The items, with a progress bar."""
    items = list(items)
    return iter(progress(items, total=len(items), what=what))


def joined(records: Iterable[dict]) -> tuple[list[Row], list[dict]]:
    """The rows, and the groups of videos, of what was measured clip by clip: records `{"rows", "groups"}`."""
    records = list(records)
    rows = [row for record in records for row in record["rows"]]
    return rows, [group for record in records for group in record["groups"]]


# ------------------------------------------------------------------------------------------- tables


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV, atomically; the columns are those of the first rows that have them. None and NaN are empty cells.

    Raises:
        VLFMError: if there is no row.
    """
    if not rows:
        raise VLFMError(f"nothing was measured for {path}: the run has no clip that it needs")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_bytes(path, text.getvalue().encode())


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV.

    Raises:
        VLFMError: if it is missing.
    """
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        raise VLFMError(f"{path} is missing: the stage that writes it has not run here") from None


def means(rows: Sequence[Row], by: Sequence[str], metrics: Sequence[str], seed: int = 0) -> list[Row]:
    """One row per combination of the columns `by`, in the order met: for each metric its mean over clips and
    `METRIC_low`, `METRIC_high`, the 95 % interval of `mean_interval`; NaN where no clip has a number.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    result = []
    for values, members in groups.items():
        summary: Row = dict(zip(by, values, strict=True)) | {"clips": len(members)}
        for metric in metrics:
            numbers = [row[metric] for row in members if row[metric] is not None]
            interval = mean_interval(numbers, seed) if numbers else (float("nan"),) * 3
            summary |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), interval, strict=True))
        result.append(summary)
    return result


def number(value: float | torch.Tensor) -> float | None:
    """A measured value as JSON keeps it: None where it is not a number."""
    value = float(value)
    return round(value, 6) if np.isfinite(value) else None


# ------------------------------------------------------------------------------------------- videos


def write_videos(
    folder: Path, name: str, title: str, videos: dict[str, torch.Tensor | np.ndarray], fps: float | dict[str, float]
) -> dict:
    """Write what is to be seen side by side as MP4s; returns their entry in `index.json`.

    Args:
        name: what the files' names begin with.
        videos: label → frames, (K, 3, H, W) in [−1, 1] or uint8 (K, H, W, 3).
        fps: frames a second, one for all or one per label.
    """
    entry: dict[str, Any] = {"title": title, "videos": []}
    for label, frames in videos.items():
        rate = fps[label] if isinstance(fps, dict) else fps
        slug = "".join(letter if letter.isalnum() else "-" for letter in label)
        file = f"{name}_{slug}.mp4"
        write_mp4(folder / file, to_uint8(frames) if isinstance(frames, torch.Tensor) else frames, rate)
        entry["videos"].append({"label": label, "file": file, "fps": rate})
    return entry


def finish(
    output: Path,
    name: str,
    title: str,
    caption: str,
    table: Sequence[Row],
    details: dict[str, Sequence[Row]],
    figure: str,
    groups: Sequence[dict],
) -> None:
    """Write an experiment: `NAME.csv`, `NAME.svg`, the tables `NAME/DETAIL.csv` and, last, `NAME/index.json`.

    `index.json` is `{"title", "caption", "groups": [{"title", "videos": [{"label", "file", "fps"}]}]}`: what a page
    shows side by side, group by group; files lie beside it.
    """
    write_table(output / f"{name}.csv", table)
    for detail, rows in details.items():
        write_table(output / name / f"{detail}.csv", rows)
    write_bytes(output / f"{name}.svg", figure.encode())
    write_json(output / name / "index.json", {"title": title, "caption": caption, "groups": list(groups)})
