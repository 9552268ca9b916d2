"""What a user would otherwise pick, after equally many seconds of training: other heads, and a flow over all frames.

Each variant is the configured backbone under the ordinary trainer, with the configured optimizer, caption dropout and
guidance. Its steps are what `experiments.baseline_seconds` are worth on one machine (`equal_seconds`), and its learning
rate decays over exactly these. Each is trained with several seeds and sampled in several numbers of steps, and what it
makes of captions is judged beside what takes no training: clips of the nearest training caption, and averages.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.evaluation.generation import sources
from vlfm.evaluation.generation.sources import Source
from vlfm.experiments.names import HEADS
from vlfm.experiments.shared import all_frames
from vlfm.experiments.shared.common import COLOURS, write_experiment
from vlfm.experiments.shared.equal_seconds import seconds_a_step, steps_within
from vlfm.experiments.shared.judged import METRICS, Headline, Jury, headline, ordered, side_by_side
from vlfm.experiments.shared.variants import ALL_FRAMES, Variant, of_all_frames, projected, with_head
from vlfm.finished_run import Run
from vlfm.model.flow_model import FlowModel
from vlfm.plots import WIDTH, legend_below, svg
from vlfm.progress import Stopwatch, with_progress
from vlfm.splits import LABELS
from vlfm.storage.files import read_json, write_json
from vlfm.storage.tables import Row
from vlfm.words import plural

VARIANTS = ("coefficients", "velocity", "direct", ALL_FRAMES)
# Columns before the scores.
TOLD = ("variant", "seed", "split", "sampling", "evaluations", "steps", "seconds")


def configured(config: configs.Config, name: str, seed: int = 0, steps: int = 1) -> configs.Config:
    """The configuration that trains one variant with a seed, for so many steps.

    Raises:
        VLFMError: for an unknown variant.
    """
    if name not in VARIANTS:
        raise VLFMError(f"unknown variant {name!r}; there are {', '.join(VARIANTS)}")
    training = {"steps": steps, "warmup": min(config.training.warmup, steps // 5), "preview_every": 0}
    head = name if name in HEADS else config.model.head
    return with_head(config.model_copy(update={"seed": seed}), head, **training)


def variant(run: Run, output: Path, name: str, seed: int = 0, steps: int = 1) -> Variant:
    """One variant, ready to be trained."""
    config = configured(run.config, name, seed, steps)
    if name == ALL_FRAMES:
        return of_all_frames(run, config, output / "baselines" / "frames")
    return projected(run, config)


# ------------------------------------------------------------------------------------------- parts


def run_part(run: Run, output: Path, part: str) -> None:
    """`prepare`, or a variant and a seed, `velocity-1` for example; see `prepare` and `train_one`.

    Raises:
        VLFMError: for another part.
    """
    if part == "prepare":
        return prepare(run, output)
    named = re.fullmatch(rf"({'|'.join(VARIANTS)})-(\d+)", part)
    if named is None:
        raise VLFMError(
            f"--part {part}: baselines have the part `prepare`, and VARIANT-SEED of the variants {', '.join(VARIANTS)}"
        )
    train_one(run, output, named[1], int(named[2]))


def prepare(run: Run, output: Path) -> None:
    """Write all frames' shards, `baselines/frames/`, measure a step of each variant and, last, write what
    `experiments.baseline_seconds` are worth: `baselines/steps.json`.

    Raises:
        VLFMError: for clips of several lengths.
    """
    all_frames.check_alike([run.stores[shard] for shard in run.training_shards])
    for shard in with_progress(run.training_shards, "frames"):
        projection = run.results / "coefficients" / f"{shard}.json"
        frames = output / "baselines" / "frames" / f"{shard}.tar"
        all_frames.write_frames(run.results / "latents" / f"{shard}.zarr", projection, frames)
    seconds = run.config.experiments.baseline_seconds
    measured = seconds_a_step({name: variant(run, output, name) for name in VARIANTS}, run.device)
    steps = {
        name: {"seconds_a_step": a_step, "steps": steps_within(seconds, a_step)} for name, a_step in measured.items()
    }
    about = {"seconds": seconds, "threads": torch.get_num_threads(), "device": run.device.type}
    write_json(output / "baselines" / "steps.json", {**about, "variants": steps})
    for name, its in steps.items():
        print(f"{name}: {its['seconds_a_step']:.3f} s a step, {plural(its['steps'], 'step')} in {seconds:g} s")


def train_one(run: Run, output: Path, name: str, seed: int) -> None:
    """Train one variant with one seed and judge what it makes of captions: `baselines/NAME-SEED/`, `result.json` last.

    A killed job goes on from the last checkpoint.

    Raises:
        VLFMError: as `train` does, and if `prepare` has not run.
    """
    folder = output / "baselines" / f"{name}-{seed}"
    steps = read_json(output / "baselines" / "steps.json")["variants"][name]["steps"]
    trained = variant(run, output, name, seed, steps)
    whole, watch = not (folder / "checkpoints").exists(), Stopwatch()
    trained.train(folder, run.device)
    seconds = round(watch.seconds, 1) if whole else None
    model = FlowModel.from_pretrained(folder / "model", run.device)
    jury, rows = Jury(run), []
    its = replace(run, config=trained.config)
    for sampling in sampling_steps(run.config, name):
        source = generated(its, model, name, sampling)
        for split in jury.splits:
            scores = jury.row(split, source)
            about = {"variant": name, "seed": seed, "split": split, "sampling": sampling}
            rows.append({**about, "evaluations": model.evaluations, "steps": steps, "seconds": seconds, **scores})
    # In the most steps.
    videos = jury.videos(folder, label(name, sampling), source, f"{folder.name}/")
    write_json(folder / "result.json", {"rows": rows, "videos": videos})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def sampling_steps(config: configs.Config, name: str) -> list[int | None]:
    """The steps of sampling that a variant is compared at.

    `direct` has none: it is evaluated once a frame. `velocity` passes through every frame, so that its steps are those
    in a frame interval; more than `evaluation.solver_steps` of them cost hundreds of evaluations and are left out.
    """
    if name == "direct":
        return [None]
    steps = sorted(set(config.experiments.baseline_steps))
    limit = config.evaluation.solver_steps if name == "velocity" else steps[-1]
    return [each for each in steps if each <= limit] or [limit]


def generated(run: Run, model: FlowModel, name: str, sampling: int | None) -> Source:
    """What a variant makes of captions, in so many steps of sampling."""
    if name == ALL_FRAMES:
        return all_frames.generated(run, model, sampling)
    return sources.generated(run, model, sampling, solver_steps=sampling if name == "velocity" else None)


def label(name: str, sampling: int | None) -> str:
    """A variant as a reader is told of it."""
    return name.replace("-", " ") if sampling is None else f"{name.replace('-', ' ')}, {plural(sampling, 'step')}"


# ---------------------------------------------------------------------------------------- gathered


def run(run: Run, output: Path) -> None:
    """Write `baselines.csv` and `.svg` and, in `baselines/`, `seeds.csv` and `index.json`, from what the parts left in
    `output`; see `common.write_experiment`.

    A row of the table is a variant, its steps of sampling and a split: the evaluations of the network for one clip
    (guided ones count twice), steps and seconds of training, and the scores: means over seeds, with the least and the
    largest of them as bounds. `seeds.csv` has a row for every seed, with intervals over captions.

    Raises:
        VLFMError: if a part has not run.
    """
    prepared = read_json(output / "baselines" / "steps.json")
    seeds = run.config.experiments.baseline_seeds
    results = {
        (name, seed): read_json(output / "baselines" / f"{name}-{seed}" / "result.json")
        for name in VARIANTS
        for seed in seeds
    }
    jury = Jury(run)
    rows = [ordered(row, TOLD) for result in results.values() for row in result["rows"]]
    table = [*over_seeds(rows), *map(_unbounded, jury.untrained())]
    videos = [jury.true_videos(output / "baselines"), *(results[name, seeds[0]]["videos"] for name in VARIANTS)]
    best = headline(rows)
    caption = (
        f"{plural(len(seeds), 'seed')} of each variant, trained for {prepared['seconds']:g} s on "
        f"{plural(prepared['threads'], 'thread')} of one machine ({prepared['device']}); means over seeds, in "
        "small print the least and the largest. "
        f"{best.title.capitalize()}, {LABELS[jury.splits[-1]]} captions, each at its best number of sampling steps: "
        + "; ".join(
            f"{label(row['variant'], row.get('sampling'))} {row[best.name]:.0%}"
            + (f" in {plural(row['evaluations'], 'evaluation')}" if row.get("evaluations") else "")
            for row in _best(table, jury.splits[-1], best.name)
        )
    )
    figure = _figure(table, jury.splits[-1], best)
    title = "What else the same seconds of training give"
    write_experiment(output, "baselines", title, caption, table, {"seeds": rows}, figure, side_by_side(videos))
    print(caption)


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row per variant, steps of sampling and split: means over seeds, and the least and the largest as bounds."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row["variant"], row["sampling"], row["split"]), []).append(row)
    return [_mean(members) for members in groups.values()]


def _mean(members: Sequence[Row]) -> Row:
    first = members[0]
    told = {name: first[name] for name in ("variant", "split", "sampling", "evaluations", "steps")}
    seconds = [row["seconds"] for row in members if row["seconds"] is not None]
    summary: Row = {**told, "seeds": len(members), "seconds": sum(seconds) / len(seconds) if seconds else None}
    for name in METRICS:
        values = [row[name] for row in members if row[name] is not None]
        summary[name] = sum(values) / len(values) if values else None
        if len(members) > 1:
            summary |= {f"{name}_low": min(values, default=None), f"{name}_high": max(values, default=None)}
    return summary


def _unbounded(row: Row) -> Row:
    """A row without its intervals: bounds of this table are those of seeds."""
    return {name: value for name, value in row.items() if not name.endswith(("_low", "_high"))}


def _best(table: Sequence[Row], split: str, metric: str) -> list[Row]:
    """Of each variant the row of a split with the highest score, the best first."""
    rows = [row for row in table if row["split"] == split and row[metric] is not None]
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: -row[metric]):
        best.setdefault(row["variant"], row)
    return list(best.values())


def _figure(table: Sequence[Row], split: str, best: Headline) -> str:
    """The score of a split against network evaluations; a line across for what takes none."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    rows = [row for row in table if row["split"] == split and row[best.name] is not None]
    for name, colour in zip(dict.fromkeys(row["variant"] for row in rows), COLOURS, strict=False):
        mine = [row for row in rows if row["variant"] == name]
        values = [row[best.name] for row in mine]
        if not mine[0].get("evaluations"):
            axes.axhline(values[0], color=colour, linestyle="--", linewidth=1.2, label=name)
            continue
        evaluations = [row["evaluations"] for row in mine]
        axes.plot(evaluations, values, "o-", color=colour, markersize=3.5, label=name.replace("-", " "))
        bounds = [[row.get(f"{best.name}_{end}") for row in mine] for end in ("low", "high")]
        if None not in bounds[0] + bounds[1]:
            axes.vlines(evaluations, *bounds, color=colour, linewidth=1)
    axes.set(xlabel="network evaluations a clip", ylabel=best.title, xscale="log", ylim=(0, None))
    legend_below(figure, axes, columns=2)
    return svg(figure, "baselines")
