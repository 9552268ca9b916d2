"""The ablation of Table 1: the same backbone, data and seed under three heads, before and after training.

`velocity` is the paper's flow matching, `direct` its ablation (the latents themselves), `coefficients` ours. Each is
trained through the ordinary trainer for `experiments.ablation_steps` steps, at the times its loss asks for: velocity
and direct uniformly over the clip (Definition D.9), coefficients as configured. Scored are clips recovered from their
captions, in pixels.

After equal steps: the trained networks. After equal seconds: each network at the time at which the fastest was done,
read off its curve of PSNR against seconds, linearly between measurements.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.evaluation.means import means, number
from vlfm.evaluation.metrics import psnr, psnr_paper
from vlfm.experiments.names import HEADS
from vlfm.experiments.shared.common import COLOURS, write_experiment, write_videos
from vlfm.experiments.shared.variants import projected, with_head
from vlfm.finished_run import Run
from vlfm.frames import to_tensor
from vlfm.model.flow_model import FlowModel
from vlfm.model.frame_times import shown_times
from vlfm.model.transformer import VLFMTransformer
from vlfm.plots import WIDTH, legend_below, svg
from vlfm.progress import Stopwatch
from vlfm.splits import TRAIN
from vlfm.storage.files import read_json, write_json
from vlfm.storage.tables import Row
from vlfm.training.data import read_moments
from vlfm.training.network import new_model
from vlfm.words import plural

POINTS = 5  # measurements on the way
FRAMES = 4  # of each clip, evenly spaced, that are scored: decoding takes longer than training


def configured(config: configs.Config, head: str) -> configs.Config:
    """The configuration that trains one head.

    Raises:
        VLFMError: for an unknown head.
    """
    if head not in HEADS:
        raise VLFMError(f"unknown head {head!r}; there are {', '.join(HEADS)}")
    steps = config.experiments.ablation_steps
    every = max(1, steps // POINTS)
    change: dict = {"steps": steps, "warmup": min(config.training.warmup, steps // 5), "ema": 0.0}
    change |= {"checkpoint_every": every, "preview_every": every, "caption_dropout": 0.0}
    unguided = config.evaluation.model_copy(update={"guidance": 1.0})
    return with_head(config, head, **change).model_copy(update={"evaluation": unguided})


def run_part(run: Run, output: Path, head: str) -> None:
    """Train one head and score it: `ablation/HEAD/model/`, videos beside it, and, last, `ablation/HEAD/result.json`.

    A killed job goes on from the last checkpoint.

    Raises:
        VLFMError: as `train` does.
    """
    folder = output / "ablation" / head
    config = configured(run.config, head)
    variant = projected(run, config)
    run = replace(run, config=config)
    judge = Judge(run)
    moments = read_moments(variant.moment_files)
    identity = run.identity("model", "training", "flow", "evaluation", "experiments", data=moments.fingerprint)
    curve = Curve(judge, folder / f".curve-{identity}.json", config.training.preview_every)
    curve.before(lambda: new_model(config, moments))
    curve.watch = Stopwatch()
    variant.train(folder, run.device, curve)
    model = FlowModel.from_pretrained(folder / "model", run.device)
    steps, shown = config.training.steps, config.experiments.videos
    last = curve.rows[-1]
    scores, videos = last["scores"] if last["step"] == steps else judge.scores(model), []
    for index, name in enumerate(judge.names[: max(1, shown)]):
        stored = run.latents(name)
        instants = torch.from_numpy(shown_times(config.clips.fps, stored.duration, stored.times))
        watch = Stopwatch()
        latents = run.rendered(stored, instants, model)
        seconds, evaluations = watch.seconds, model.evaluations
        if index < shown:
            frames = run.coder(stored).without_null_text().generate(latents)
            videos.append(write_videos(folder, name, stored.caption, {head: frames}, config.clips.fps))
    result = {
        "head": head,
        "steps": steps,
        "seconds": round(curve.seconds(steps), 3),
        "render_seconds": round(seconds, 4),
        "evaluations": evaluations,
        "before": curve.rows[0]["scores"],
        "after": scores,
        "curve": curve.points(scores, steps),
        "videos": videos,
    }
    write_json(folder / "result.json", result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    curve.path.unlink()


class Judge:
    """Scores a model on clips that it was trained on, recovered from their captions.

    Attributes:
        names: of the clips. decoded: their frames and times.
    """

    def __init__(self, run: Run):
        self.run = run
        self.names = run.clip_ids(run.config.experiments.clips, TRAIN)
        self.decoded = run.frames(self.names)

    def scores(self, model: FlowModel) -> dict[str, dict[str, float]]:
        """Clip → its PSNR, the paper's and the standard one, at `FRAMES` frames."""
        scores = {}
        for name in self.names:
            clip, stored = self.decoded[name], self.run.latents(name)
            chosen = np.unique(np.linspace(0, len(clip.times) - 1, FRAMES).round().astype(int))
            latents = self.run.rendered(stored, torch.from_numpy(clip.times[chosen]), model)
            frames = self.run.coder(stored).without_null_text().generate(latents)
            truth = to_tensor(clip.frames[chosen])
            scores[name] = {
                "psnr": number(psnr(frames, truth).mean()),
                "psnr_paper": number(psnr_paper(frames, truth).mean()),
            }
        return scores


class Curve:
    """PSNR and seconds of training on the way, kept in a file: what the trainer calls with the network and the step.

    Attributes:
        rows: one per measurement: the step, the scores, the seconds since the last one, and whether these are all the
            seconds of training since it: they are not if the job was stopped in between.
        watch: runs while there is training.
    """

    def __init__(self, judge: Judge, path: Path, every: int):
        self.judge, self.path, self.every = judge, path, every
        self.rows: list[dict] = read_json(path) if path.exists() else []
        self.watch = Stopwatch()
        self.whole = not self.rows

    def before(self, make) -> None:
        """Score the untrained network, unless that is done."""
        if not self.rows:
            self._measure(make().to(self.judge.run.device).eval(), 0, 0.0)

    def __call__(self, network: VLFMTransformer, step: int) -> None:
        taken = self.watch.seconds
        self.rows = [row for row in self.rows if row["step"] < step]
        self._measure(network, step, taken)
        self.watch, self.whole = Stopwatch(), True

    def seconds(self, step: int) -> float:
        """Of training up to a step, by the mean of the stretches that were measured whole, if there are such."""
        stretches = [row for row in self.rows if row["step"]]
        whole = [row["seconds"] for row in stretches if row["whole"]] or [row["seconds"] for row in stretches]
        return step * float(np.mean(whole)) / self.every if whole else self.watch.seconds

    def points(self, last: dict, steps: int) -> list[dict]:
        """The curve: step, seconds, mean PSNR; the trained network's at its end."""
        rows = [(row["step"], row["scores"]) for row in self.rows if row["step"] < steps]
        return [
            {"step": step, "seconds": round(self.seconds(step), 3), "psnr": _mean(scores)}
            for step, scores in [*rows, (steps, last)]
        ]

    def _measure(self, network: VLFMTransformer, step: int, seconds: float) -> None:
        model = FlowModel.of(self.judge.run.config, network)
        self.rows.append(
            {"step": step, "seconds": round(seconds, 3), "whole": self.whole, "scores": self.judge.scores(model)}
        )
        write_json(self.path, self.rows)


def run(run: Run, output: Path) -> None:
    """Write `ablation.csv` and `.svg` and, in `ablation/`, `clips.csv`, `curve.csv` and `index.json` from the results
    that `run_part` left in `output`; see `common.write_experiment`.

    A row of the table is one head after equal steps, or after equal seconds: PSNR before and after with 95 %
    intervals, `psnr_paper` beside them, network evaluations and seconds (of the network) that a clip takes.

    Raises:
        VLFMError: if a head was not trained.
    """
    results = {head: read_json(output / "ablation" / head / "result.json") for head in HEADS}
    rows: list[Row] = [
        {
            "head": head,
            "clip_id": name,
            "psnr_before": result["before"][name]["psnr"],
            "psnr_after": after["psnr"],
            "psnr_paper_before": result["before"][name]["psnr_paper"],
            "psnr_paper_after": after["psnr_paper"],
        }
        for head, result in results.items()
        for name, after in result["after"].items()
    ]
    columns = ("psnr_before", "psnr_after", "psnr_paper_before", "psnr_paper_after")
    table = []
    for summary in means(rows, ("head",), columns, run.config.seed):
        result = results[summary["head"]]
        about = {"equal": "steps", "steps": result["steps"], "seconds": result["seconds"]}
        cost = {"evaluations": result["evaluations"], "render_seconds": result["render_seconds"]}
        table.append({"head": summary.pop("head"), **about, **summary, **cost})
    shortest = min(result["seconds"] for result in results.values())
    for row in list(table):
        curve = results[row["head"]]["curve"]
        seconds = [point["seconds"] for point in curve]
        table.append(
            {
                "head": row["head"],
                "equal": "seconds",
                "steps": int(np.interp(shortest, seconds, [point["step"] for point in curve])),
                "seconds": shortest,
                "clips": row["clips"],
                "psnr_before": row["psnr_before"],
                "psnr_after": float(np.interp(shortest, seconds, [point["psnr"] for point in curve])),
                "evaluations": row["evaluations"],
                "render_seconds": row["render_seconds"],
            }
        )
    caption = (
        "Clips generated from their captions after "
        + f"{plural(run.config.experiments.ablation_steps, 'training step')} of each head: "
        + "; ".join(
            f"{row['head']} {row['psnr_before']:.2f} → {row['psnr_after']:.2f} dB, "
            f"{plural(row['evaluations'], 'evaluation')}"
            for row in table
            if row["equal"] == "steps"
        )
    )
    curves = [{"head": head, **point} for head, result in results.items() for point in result["curve"]]
    groups = [
        {
            "title": shown[0]["title"],
            "videos": [
                {**video, "file": f"{head}/{video['file']}"}
                for head, entry in zip(HEADS, shown, strict=True)
                for video in entry["videos"]
            ],
        }
        for shown in zip(*(result["videos"] for result in results.values()), strict=True)
    ]
    details = {"clips": rows, "curve": curves}
    write_experiment(
        output, "ablation", "What the network predicts (Table 1)", caption, table, details, _figure(results), groups
    )
    print(caption)


def _mean(scores: dict[str, dict[str, float]]) -> float:
    return round(float(np.mean([score["psnr"] for score in scores.values()])), 4)


def _figure(results: dict[str, dict]) -> str:
    """PSNR against seconds of training."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    for (head, result), colour in zip(results.items(), COLOURS, strict=False):
        curve = result["curve"]
        axes.plot(
            [point["seconds"] for point in curve],
            [point["psnr"] for point in curve],
            "o-",
            color=colour,
            markersize=3.5,
            label=f"{head} ({plural(result['evaluations'], 'evaluation')} a clip)",
        )
    axes.set(xlabel="seconds of training", ylabel="PSNR (dB)")
    legend_below(figure, axes, columns=1)
    return svg(figure, "ablation")
