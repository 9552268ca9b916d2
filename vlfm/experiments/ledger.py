"""The ledger: for every clip, in dB, where quality goes.

A chain of videos, each made by one stage more, and the PSNR of each against the true frames, at the clips' own rate:
`decoder` (the autoencoder alone), + `inversion` (and its undoing), + `projection` (the path on the basis), + `network`
(generated from the caption) and, measured here, + `interpolation`: the network draws every second frame and the last,
and the hybrid path through these draws the others. A stage's loss is the PSNR before it less the PSNR after it, so

    PSNR of the decoder − inversion − projection − network − interpolation = PSNR of the last video

exactly, for every clip and for the means, which training clips and test clips have each their own. A loss below 0 is a
gain. The first entry is the decoder's own PSNR: a perfect decoder's would be infinite.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from vlfm.errors import VLFMError
from vlfm.evaluation.means import means, number
from vlfm.evaluation.metrics import psnr
from vlfm.experiments.interpolation import carried
from vlfm.experiments.shared.common import COLOURS, cached, write_experiment, write_videos
from vlfm.experiments.shared.interpolators import combine
from vlfm.finished_run import Run
from vlfm.frames import to_tensor
from vlfm.model.frame_times import nearest_frames, rate_times
from vlfm.plots import WIDTH, svg
from vlfm.progress import with_progress
from vlfm.splits import LABELS, TRAIN, splits_met
from vlfm.storage.tables import Row, read_table
from vlfm.video.path_weights import path_weights

STAGES = ("decoder", "inversion", "projection", "network")
LOSSES = (*STAGES[1:], "interpolation")
COLUMNS = ("decoder", *LOSSES, "total", "left")


def run(run: Run, output: Path) -> None:
    """Write `ledger.csv`, `.svg` and the folder `ledger/` in `output`, from `psnr.csv` there; see
    `common.write_experiment`.

    A row is a clip: `split`; `decoder`, its PSNR; each stage's loss; `total`, their sum; `left`, the PSNR of the last
    video. `ledger/means.csv` holds the means over the clips of each split with 95 % intervals.

    Raises:
        VLFMError: if `psnr.csv` is missing, or evaluation.fps lacks the clips' own rate.
    """
    fps = run.config.clips.fps
    scores: dict[str, dict[str, float]] = {}
    splits: dict[str, str] = {}
    for row in read_table(output / "psnr.csv"):
        if float(row["fps"]) == fps:
            scores.setdefault(row["clip_id"], {})[row["stage"]] = float(row["psnr"])
            splits[row["clip_id"]] = row.get("split", TRAIN)
    if not scores:
        raise VLFMError(
            f"the ledger is taken at the clips' own rate, which evaluation.fps lacks: add {fps:g} to it and run "
            "`snakemake` again"
        )
    settings = run.config.experiments
    folder = output / "ledger"
    decoded = run.frames(scores)
    with cached(folder, run.identity("flow", "evaluation", "experiments", model=True, scores=scores)) as measured:
        records = {
            name: measured(name, _interpolated, run, name, decoded[name], folder, index < settings.videos)
            for index, name in enumerate(with_progress(scores, "ledger"))
        }
        rows = [
            {"clip_id": name, "split": splits[name], **entry(scores[name], record["psnr"])}
            for name, record in records.items()
        ]
        groups = [group for record in records.values() for group in record["groups"]]
        summary = [
            {
                "split": line["split"],
                "stage": name,
                "mean": line[name],
                "low": line[f"{name}_low"],
                "high": line[f"{name}_high"],
            }
            for line in means(rows, ("split",), COLUMNS, run.config.seed)
            for name in COLUMNS
        ]
        caption = "Losses in dB, each stage's alone; they add up: " + _in_words(summary)
        write_experiment(
            output, "ledger", "Where quality goes", caption, rows, {"means": summary}, _figure(summary), groups
        )
    print(caption)


def _in_words(summary: list[Row]) -> str:
    """The means in one line; where there are two splits, each with its name."""
    lines = {
        split: ", ".join(f"{row['stage']} {row['mean']:.2f}" for row in summary if row["split"] == split)
        for split in splits_met(row["split"] for row in summary)
    }
    return "; ".join(f"{LABELS[split]}: {line}" if len(lines) > 1 else line for split, line in lines.items())


def entry(scores: dict[str, float], last: float) -> dict[str, float]:
    """One clip's line from the PSNR of its `STAGES` and of the last video, in dB to four decimals."""
    chain = [round(value, 4) for value in (*(scores[stage] for stage in STAGES), last)]
    losses = [round(before - after, 4) for before, after in pairwise(chain)]
    return {
        "decoder": chain[0],
        **dict(zip(LOSSES, losses, strict=True)),
        "total": round(sum(losses), 4),
        "left": chain[-1],
    }


def _interpolated(run: Run, name: str, clip, folder: Path, shown: bool) -> dict:
    """The PSNR of a clip whose every second frame is the network's, the others the hybrid path's."""
    stored = run.latents(name)
    truth, times = to_tensor(clip.frames), clip.times
    latents = run.rendered(stored, torch.from_numpy(times))
    given = np.unique([*range(0, len(times), 2), len(times) - 1])
    basis = run.config.flow.basis
    order = carried("hybrid", basis, run.config.flow.order, len(given))
    filled = combine(path_weights("hybrid", times[given], times, order, basis=basis), latents[given])
    frames = run.coder(stored).without_null_text().generate(filled)
    chosen = nearest_frames(rate_times(run.config.clips.fps, stored.duration), times)
    score = number(psnr(frames[chosen], truth[chosen]).mean())
    videos = {"true frames": truth, "every second frame generated": frames}
    groups = [write_videos(folder, name, stored.caption, videos, run.config.clips.fps)] if shown else []
    return {"psnr": score, "groups": groups}


def _figure(summary: list[Row]) -> str:
    """A waterfall of the means: what the decoder gives, what each stage takes, what is left; of each split its own."""
    from matplotlib import pyplot

    met = splits_met(row["split"] for row in summary)
    size = (WIDTH, 3.4 * len(met))
    figure, several = pyplot.subplots(len(met), figsize=size, layout="constrained", squeeze=False)
    for split, axes in zip(met, several[:, 0], strict=True):
        _draw(axes, {row["stage"]: row["mean"] for row in summary if row["split"] == split})
        if len(met) > 1:
            axes.set_title(LABELS[split], fontsize=9.5)
    return svg(figure, "ledger")


def _draw(axes, value: dict[str, float]) -> None:
    """One waterfall, of a mean for each of `COLUMNS`."""
    top = value["decoder"]
    names, level = ["decoder", *LOSSES, "left"], top
    axes.bar(0, top, color=COLOURS[7])
    for place, name in enumerate(LOSSES, 1):
        axes.bar(place, -value[name], bottom=level, color=COLOURS[1] if value[name] > 0 else COLOURS[2])
        axes.annotate(
            f"{-value[name]:+.2f}",
            (place, max(level, level - value[name])),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
        )
        axes.plot([place - 1.4, place + 0.4], [level, level], "k-", linewidth=0.7)
        level -= value[name]
    axes.bar(len(names) - 1, value["left"], color=COLOURS[0])
    for place, name in ((0, "decoder"), (len(names) - 1, "left")):
        axes.annotate(
            f"{value[name]:.2f}", (place, value[name]), (0, 3), textcoords="offset points", ha="center", fontsize=8.5
        )
    lowest = min(top, level, value["left"])
    axes.set_ylim(lowest - max(2.0, 0.5 * (top - lowest)), top + 0.15 * (top - lowest) + 0.8)
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right", fontsize=8.5)
    axes.set_ylabel("PSNR (dB)")
    axes.grid(alpha=0.3, axis="y")
