"""What a run will take before it is started: jobs, files, bytes and time of each stage.

Nothing is guessed: a smaller run of the same settings was measured, by the benchmarks that every rule keeps and by the
files that it left. Its numbers are scaled by the number of clips.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.splits import checked_plan
from vlfm.storage.files import read_json
from vlfm.storage.job_timings import read_benchmark, resumed_step
from vlfm.words import bytes_in_words, seconds_in_words, table_in_words

CORES_A_JOB = 16  # what rules that compute ask for; see workflow/rules/common.smk


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline, as it is forecast.

    Attributes:
        name: as one says it. rule: whose benchmark tells its seconds, a folder of them where it has a job a shard.
        outputs: what it leaves, relative to the results; `{shard}` stands for each shard.
        settings: the parts of the configuration that decide what it costs.
        cores: that a job asks for on a machine without GPUs. gpu: whether it takes one where there is one.
        grows: whether one job for all takes longer with more clips; else it looks at a sample.
        work: keys whose product a job's seconds are proportional to.
    """

    name: str
    rule: str
    outputs: tuple[str, ...]
    settings: tuple[str, ...]
    cores: int = CORES_A_JOB
    gpu: bool = True
    grows: bool = False
    work: tuple[str, ...] = ()

    @property
    def sharded(self) -> bool:
        """Whether it has a job for each shard."""
        return any("{shard}" in output for output in self.outputs)


FRAMES = ("clips.fps", "clips.duration", "clips.size", "clips.image")
LATENTS = (*FRAMES, "decoder", "inversion", "text")
PATHS = (*LATENTS, "flow.basis", "flow.order")
STAGES = (
    Stage("index", "index", ("clips/manifest.parquet", "clips/shards.json"), FRAMES[:3], 1, gpu=False, grows=True),
    Stage("decode", "decode", ("clips/{shard}.tar", "clips/{shard}.ledger.parquet"), FRAMES, 1, gpu=False),
    Stage("caption", "caption", ("clips/captions/{shard}.ledger.parquet",), (*FRAMES, "clips.captioner")),
    Stage("prepare decoder", "prepare_decoder", ("decoder",), (*FRAMES, "decoder")),
    Stage("invert", "invert", ("latents/{shard}.zarr", "latents/{shard}.ledger.parquet"), LATENTS),
    Stage(
        "project",
        "project",
        ("coefficients/{shard}.tar", "coefficients/{shard}.json", "coefficients/{shard}.ledger.parquet"),
        PATHS,
        1,
        gpu=False,
    ),
    Stage(
        "train",
        "train",
        ("model", "checkpoints"),
        (*PATHS, "model", "training"),
        work=("training.steps", "training.batch_size"),
    ),
    Stage("evaluate", "evaluate", ("eval/psnr.csv", "eval/videos"), (*PATHS, "model", "evaluation")),
)


@dataclass(frozen=True)
class Forecast:
    """Of one stage; None where it was not measured.

    Attributes:
        stage: its name. jobs: how many. files, bytes: that it leaves.
        seconds_a_job: of one job; None also for the index of more than twice as many clips.
        seconds: of all, with as many at once as cores and GPUs allow.
        unlike: keys of the configuration in which the measured run differs, of those that decide what the stage costs.
    """

    stage: str
    jobs: int
    files: int | None
    bytes: int | None
    seconds_a_job: float | None
    seconds: float | None
    unlike: tuple[str, ...] = ()


def forecast(
    config: configs.Config,
    shards: Sequence[int],
    measured: Path,
    cores: int,
    gpus: int = 0,
) -> list[Forecast]:
    """What each stage of a run will take.

    Args:
        config: of the run.
        shards: clips in each of its shards, see `planned`.
        measured: the results folder of a run that was measured, of the same settings as far as they decide the cost.
        cores, gpus: of the machines it will run on, which work as fast as the measured one's.

    Returns:
        A line for each of `STAGES`, for captioning only where a model is named.

    Raises:
        VLFMError: if `measured` is not the results of a run.
    """
    shards_file = measured / "clips" / "shards.json"
    plan = read_json(shards_file) if shards_file.is_file() else None
    try:
        sizes = {name: about["clips"] for name, about in checked_plan(plan, shards_file).items()}
    except VLFMError:
        raise VLFMError(
            f"{measured} is not the results of a run ({shards_file} is missing, or no plan): run a few clips with "
            "these settings first, and give its results folder"
        ) from None
    own = configs.load(measured / "config.yaml")
    stages = [stage for stage in STAGES if stage.rule != "caption" or config.clips.captioner]
    return [_forecast(stage, config, own, list(shards), sizes, measured, cores, gpus) for stage in stages]


def planned(plan: Path, clips: int | None, shard_size: int) -> list[int]:
    """Clips in each shard: as planned, or of `clips` clips in shards of `shard_size`.

    Raises:
        VLFMError: without `clips`, if there is no plan, or it is damaged.
    """
    if clips is not None:
        whole, rest = divmod(clips, shard_size)
        return [shard_size] * whole + [rest] * bool(rest)
    if not plan.is_file():
        raise VLFMError(f"{plan} is missing: run `vlfm index` first, or say how many clips there will be (--clips)")
    return [about["clips"] for about in checked_plan(read_json(plan), plan).values()]


def _forecast(
    stage: Stage,
    config: configs.Config,
    own: configs.Config,
    shards: list[int],
    sizes: Mapping[str, int],
    measured: Path,
    cores: int,
    gpus: int,
) -> Forecast:
    at_once = max(1, gpus if stage.gpu and gpus else cores // min(stage.cores, cores))
    jobs = len(shards) if stage.sharded else 1
    runs = _seconds(stage, measured, sizes)
    files, size = _left(stage, measured, sizes)
    done = sum(sizes.values())
    # One job for all that looks at a sample leaves what it left; the others leave more with more clips, or shards.
    if stage.sharded:
        files = files and math.ceil(files / len(sizes) * len(shards))
    if stage.sharded or stage.grows:
        size = size and math.ceil(size / done * sum(shards))
    each = whole = None
    if runs:
        start, a_clip = _line(runs)
        if stage.sharded:
            each = start + a_clip * sum(shards) / len(shards)
            whole = math.ceil(jobs / at_once) * (start + a_clip * max(shards))
        else:
            # How many sources the index has to open decides its time, and a small run says little of that.
            more = (math.nan if sum(shards) > 2 * done else sum(shards) / done) if stage.grows else 1.0
            for key in stage.work:
                more *= _value(config, key) / _value(own, key)
            each = whole = None if math.isnan(more) else sum(seconds for _, seconds in runs) * more
    return Forecast(stage.name, jobs, files or None, size or None, each, whole, _unlike(stage, config, own))


def _seconds(stage: Stage, measured: Path, sizes: Mapping[str, int]) -> list[tuple[int, float]]:
    """Clips and seconds of the jobs that were measured; none of a training that was stopped and went on."""
    folder = measured / "benchmarks"
    if stage.rule == "train" and resumed_step(measured):
        return []
    if not stage.sharded:
        path = folder / f"{stage.rule}.tsv"
        return [(sum(sizes.values()), _read(path))] if path.is_file() else []
    found = {name: folder / stage.rule / f"{name}.tsv" for name in sizes}
    return [(sizes[name], _read(path)) for name, path in found.items() if path.is_file()]


def _read(path: Path) -> float:
    """The seconds in a benchmark of Snakemake's."""
    return sum(float(row["s"]) for row in read_benchmark(path))


def _line(runs: list[tuple[int, float]]) -> tuple[float, float]:
    """Seconds that a job takes to start, and seconds a clip; where shards are of one size a job has no start."""
    clips, seconds = np.array(runs, dtype=np.float64).T
    if clips.max() >= 2 * clips.min():
        slope, start = np.polyfit(clips, seconds, 1)
        if slope >= 0 and start >= 0:
            return float(start), float(slope)
    return 0.0, float(seconds.sum() / clips.sum())


def _left(stage: Stage, measured: Path, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Files and bytes that the stage left."""
    shards = sizes if stage.sharded else [""]
    paths = [measured / output.format(shard=shard) for shard in shards for output in stage.outputs]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return len(files), sum(file.stat().st_size for file in files)


def _unlike(stage: Stage, config: configs.Config, own: configs.Config) -> tuple[str, ...]:
    wanted, there = (_flat(configs.settings(each, *stage.settings)) for each in (config, own))
    differ = {key for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key)}
    return tuple(sorted(differ.difference(stage.work)))


def _value(config: configs.Config, key: str) -> float:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {before + key: value}
    return flat


def table(lines: Sequence[Forecast]) -> str:
    """The forecast as text: a line for each stage, their sums, and where the measured run differs."""
    header = ("stage", "jobs", "files", "size", "a job", "all jobs")
    rows = [
        (
            line.stage,
            f"{line.jobs:,}",
            _count(line.files),
            _size(line.bytes),
            _time(line.seconds_a_job),
            _time(line.seconds),
        )
        for line in lines
    ]
    known = [line.seconds for line in lines if line.seconds is not None]
    rows.append(
        (
            "together",
            f"{sum(line.jobs for line in lines):,}",
            _count(sum(line.files or 0 for line in lines)),
            _size(sum(line.bytes or 0 for line in lines)),
            "",
            _time(sum(known)),
        )
    )
    text = table_in_words([header, *rows])
    missing = [line.stage for line in lines if line.seconds is None]
    if missing:
        text.append(f"not measured, or not at this size, and not counted: {', '.join(missing)}")
    text += [
        f"{line.stage} was measured with other settings: {', '.join(line.unlike)}" for line in lines if line.unlike
    ]
    return "\n".join(text)


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _size(size: int | None) -> str:
    return "?" if size is None else bytes_in_words(size)


def _time(seconds: float | None) -> str:
    return "?" if seconds is None else seconds_in_words(seconds)
