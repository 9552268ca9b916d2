"""The clips of a finished run in memory, networks trained on them, and tables: what benchmarks of training share."""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from machine import machine

from vlfm import config as configs
from vlfm.clips.shards import DecodedClip, read_clips
from vlfm.coefficients.shards import ClipCoefficients, read_shard
from vlfm.errors import VLFMError
from vlfm.flow.projection import reconstruct
from vlfm.model.flow_model import FlowModel
from vlfm.precision import network_dtype
from vlfm.splits import TRAIN, shards_of
from vlfm.storage.files import read_json
from vlfm.training.data import Batch, Moments, read_moments
from vlfm.training.network import new_model
from vlfm.training.trainer import Trainer, attention_kernel

CHUNK = 51  # clips rendered at once


def parser_of(benchmark: str, doc: str) -> argparse.ArgumentParser:
    """The options that benchmarks of networks trained on a run share; each adds its own."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="of a finished run")
    parser.add_argument("--steps", type=int, default=900, help="of training, for each network")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"{benchmark}.json")
    return parser


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict]:
    """The command line, its threads set, and what it is measured on, before anything runs."""
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    return arguments, machine(arguments.device)


@dataclass(frozen=True)
class FinishedRun:
    """What a run of the workflow left in `folder`; all its training clips, of one length and size."""

    folder: Path
    config: configs.Config
    moments: Moments
    clips: list[ClipCoefficients]
    batch: Batch

    def frames(self) -> dict[str, DecodedClip]:
        """Every clip's frames, by its id."""
        names = shards_of(read_json(self.folder / "clips" / "shards.json"), TRAIN)
        return {clip.clip_id: clip for name in names for clip in read_clips(self.folder / "clips" / f"{name}.tar")}


def read_run(folder: Path) -> FinishedRun:
    """Read the coefficients of the run whose results are in `folder`.

    Raises:
        VLFMError: if clips differ in length or size; these benchmarks compare other things.
    """
    names = shards_of(read_json(folder / "clips" / "shards.json"), TRAIN)
    moments = read_moments([folder / "coefficients" / f"{name}.json" for name in names])
    if len(moments.shapes) > 1 or len(moments.durations) > 1:
        raise VLFMError(f"{folder} has clips of several lengths or sizes; run the demo and give its results")
    clips = [clip for name in names for clip in read_shard(folder / "coefficients" / f"{name}.tar")]
    batch = Batch(
        torch.stack([torch.from_numpy(clip.coefficients) for clip in clips]),
        torch.stack([torch.from_numpy(clip.tokens) for clip in clips]),
        torch.stack([torch.from_numpy(clip.mask) for clip in clips]),
        torch.tensor([clip.duration for clip in clips], dtype=torch.float64),
        torch.tensor([clip.num_frames for clip in clips]),
        tuple(clip.clip_id for clip in clips),
    )
    return FinishedRun(folder, configs.load(folder / "config.yaml"), moments, clips, batch)


def changed(config: configs.Config, changes: dict[str, object]) -> configs.Config:
    """The configuration with dotted keys set, checked as one from a file is."""
    values = config.model_dump()
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[name] = value
    return configs.parse(values, "the benchmark's settings")


def train(
    config: configs.Config, run: FinishedRun, batch: Batch, device: torch.device, seconds: float | None = None
) -> tuple[FlowModel, dict]:
    """A network trained on clips in memory; how long it took.

    Args:
        seconds: instead of `training.steps`, which are then as many as fit into these seconds, told from the first
            few, so that the learning rate falls to 0 at their end.
    """

    def trainer_of(config: configs.Config) -> Trainer:
        return Trainer(config, new_model(config, run.moments), device)

    def advance(trainer: Trainer, steps: int) -> tuple[float, list[float]]:
        losses, start = [], time.perf_counter()
        for _ in range(steps):
            generator = torch.Generator().manual_seed(trainer.step)
            chosen = torch.randint(len(batch.tokens), (config.training.batch_size,), generator=generator)
            losses.append(trainer.take_step(taken(batch, chosen)))
        return time.perf_counter() - start, losses

    if seconds is not None:
        trainer = trainer_of(config)
        advance(trainer, 2)  # the first steps allocate
        a_step = advance(trainer, 5)[0] / 5
        config = changed(config, {"training.steps": max(1, round(seconds / a_step))})
    trainer = trainer_of(config)
    elapsed, losses = advance(trainer, config.training.steps)
    with trainer.averaged() as averaged:
        network = copy.deepcopy(averaged).eval()
    model = FlowModel.of(config, network)
    tail = losses[-20:]
    return model, {
        "steps": config.training.steps,
        "seconds": elapsed,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "loss": sum(tail) / len(tail),
    }


def true_latents(model: FlowModel, batch: Batch, times: torch.Tensor) -> torch.Tensor:
    """H g(t) at times (K,) or (B, K), (B, K, C, h, w): what a network is trained to give."""
    times = times if times.ndim == 2 else times.expand(len(batch.tokens), -1)
    return reconstruct(batch.coefficients, model.path().basis.evaluate(times).float())


def rendered(model: FlowModel, batch: Batch, noise: torch.Tensor, times: torch.Tensor, **settings) -> torch.Tensor:
    """The model's latents at times (K,), in parts that fit into memory; in the precision it was trained in."""
    parts = zip(batch.tokens.split(CHUNK), batch.mask.split(CHUNK), noise.split(CHUNK), strict=True)
    dtype = network_dtype("auto", model.device)
    with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32), attention_kernel(model.device):
        return torch.cat([model.latents(*part, times, **settings).cpu() for part in parts])


def taken(batch: Batch, clips: Sequence[int] | torch.Tensor) -> Batch:
    """The clips at these positions, in any order and as often as they are named."""
    clips = torch.as_tensor(clips)
    tensors = {name: value[clips] for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    return replace(batch, clip_ids=tuple(batch.clip_ids[clip] for clip in clips.tolist()), **tensors)


def mean_square(values: torch.Tensor) -> torch.Tensor:
    """Of each clip, (B,)."""
    return values.double().square().flatten(1).mean(1)


def write_record(out: Path, record: dict, columns: dict[str, str]) -> None:
    """Write the record as JSON and its `rows` as a Markdown table beside it.

    Args:
        columns: key of a row → heading.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    lines = ["| " + " | ".join(columns.values()) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    for row in record["rows"]:
        cells = [f"{row[key]:.4g}" if isinstance(row[key], float) else str(row[key]) for key in columns]
        lines.append("| " + " | ".join(cells) + " |")
    table = "\n".join([f"# {record['what']}", "", *lines, "", json.dumps(record["machine"], ensure_ascii=False), ""])
    out.with_suffix(".md").write_text(table)
    print(table)
    print(f"written to {out} and {out.with_suffix('.md').name}")
