"""What training and the stages took: the loss, samples and clips a second, memory."""

from collections import defaultdict
from pathlib import Path

from vlfm import config as configs
from vlfm.experiments.names import EXPERIMENTS
from vlfm.report.clip_ledger import summarise
from vlfm.report.tables import Table, make_table
from vlfm.storage.job_timings import benchmark_seconds, read_benchmark, resumed_step
from vlfm.storage.ledger import LedgerRow
from vlfm.storage.tables import read_table

JOBS = (
    "make_digits",
    "index",
    "decode",
    "caption",
    "prepare_decoder",
    "encode_empty_caption",
    "invert",
    "project",
    "train",
    "evaluate",
    "fit_judges",
    "generation",
    "theory",
)


def loss_curve(metrics: Path) -> str:
    from matplotlib import pyplot

    from vlfm.plots import WIDTH, svg

    rows = read_table(metrics)
    figure, axes = pyplot.subplots(figsize=(WIDTH, 2.8), layout="constrained")
    axes.plot(
        [int(row["samples"]) for row in rows], [float(row["loss"]) for row in rows], linewidth=1.2, color="#0072B2"
    )
    axes.set(xlabel="samples seen", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    return svg(figure, "loss")


def timed_samples(config: configs.Config, training: dict, results: Path) -> int:
    """Samples seen in the seconds that training's benchmark holds: those since the training last started or went on."""
    return (training["steps"] - (resumed_step(results) or 0)) * config.training.batch_size


def training_speed(config: configs.Config, training: dict, results: Path) -> str:
    samples, timed = training["steps"] * config.training.batch_size, timed_samples(config, training, results)
    seconds = benchmark_seconds(results / "benchmarks" / "train.tsv")
    if seconds is None or not timed:
        return f"{samples} samples."
    these = "" if timed == samples else f", the last {timed} of them"
    rate = timed / max(seconds, 1e-9)
    return f"{samples} samples{these} in {_time(seconds)}: {rate:.1f} samples a second, start included."


def jobs(results: Path, ledger: list[LedgerRow], samples: int, evaluated: int) -> Table | None:
    """Seconds, clips a second and memory of every stage, from Snakemake's benchmark files; None without any."""
    folder = results / "benchmarks"
    stages: dict[str, list[dict[str, str]]] = defaultdict(list)
    for path in sorted(folder.rglob("*.tsv")):
        stages[path.relative_to(folder).with_suffix("").parts[0]] += read_benchmark(path)
    stages.pop("report", None)
    if not stages:
        return None
    items = {line.stage: line.ok for line in summarise(ledger)} | {"train": samples, "evaluate": evaluated}
    order = [*JOBS, *EXPERIMENTS]
    rows = []
    for stage in sorted(stages, key=lambda name: (order.index(name) if name in order else len(order), name)):
        jobs = stages[stage]
        seconds = sum(float(job["s"]) for job in jobs)
        count = items.get(stage)
        peak = max((float(job["max_rss"]) for job in jobs if _is_number(job["max_rss"])), default=None)
        cpu = sum(float(job["cpu_time"]) for job in jobs if _is_number(job["cpu_time"]))
        rate = count / seconds if count and seconds else None
        name = stage.replace("_", " ")
        rows.append(
            [name, len(jobs), round(seconds, 1), count, rate, peak, round(cpu / seconds, 1) if seconds > 1 else None]
        )
    head = ["stage", "jobs", "seconds", "clips", "clips/s", "memory (MB)", "cores busy"]
    return make_table(head, rows)


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
