"""What the order s costs and buys, without training: PSNR at the frames and between them, and noise between frames.

At the frames the path is fitted to all of them; between them it is fitted to every second one and scored on the
others. The hybrid path is exact at the frames it is given, at any order.
"""

import warnings
from itertools import product
from pathlib import Path

import numpy as np
import torch

from vlfm.evaluation.means import means, number
from vlfm.experiments.shared.common import COLOURS, cached, concatenate, write_experiment, write_videos
from vlfm.finished_run import Run
from vlfm.flow.bases import BASES, make_basis
from vlfm.flow.interpolation import PATHS, clip_path
from vlfm.flow.projection import ProjectionWarning, amplification, projection_matrix
from vlfm.frames import psnr, to_tensor
from vlfm.plots import WIDTH, legend_below, svg
from vlfm.progress import with_progress
from vlfm.storage.tables import Row

AUTOENCODER, INVERTED = "autoencoder", "inverted"


def run(run: Run, output: Path) -> None:
    """Write `order.csv`, `.svg` and the folder `order/` in `output`; see `common.write_experiment`.

    A row of the table is one kind of latents, one basis, one path and one order: `at_frames` and `between`, PSNR in dB,
    means over clips with 95 % intervals, and `amplification`, how much louder than on the frames independent noise is
    midway between them (all frames given, at the clip's times). `between` is empty above the number of frames given
    there.
    """
    settings = run.config.experiments
    folder = output / "order"
    names = run.clip_ids(settings.clips)
    decoded = run.frames(names)
    with cached(folder, run.identity("flow", "experiments", clips=names)) as measured:
        rows, groups = concatenate(
            measured(name, _measure, run, name, decoded[name], folder, index < settings.videos)
            for index, name in enumerate(with_progress(names, "order"))
        )
        table = means(
            rows, ("latents", "basis", "path", "order"), ("at_frames", "between", "amplification"), run.config.seed
        )
        caption = (
            "Clips drawn by paths of growing order through all their frames, decoded. The order is a choice between "
            "fidelity at the frames and sanity between them."
        )
        write_experiment(
            output, "order", "How many basis functions", caption, table, {"clips": rows}, _figure(table), groups
        )


def orders(run: Run, count: int) -> list[int]:
    """The orders compared on a clip of `count` frames."""
    return [order for order in run.config.experiments.orders or range(2, count + 1) if order <= count]


def _measure(run: Run, name: str, clip, folder: Path, shown: bool) -> dict:
    stored = run.latents(name)
    coder = run.coder(stored)
    truth, times, duration = to_tensor(clip.frames), torch.from_numpy(clip.times), stored.duration
    spaces = {
        AUTOENCODER: (coder.encode(truth), coder.decode),
        INVERTED: (torch.from_numpy(stored.latents), coder.generate),
    }
    held = torch.arange(1, len(times) - 1, 2)
    given = torch.arange(0, len(times), 2)
    rows: list[Row] = []
    videos = {"true frames": truth}
    for space, (latents, to_frames) in spaces.items():
        exact = to_frames(latents)
        for order, (name_of_basis, kind) in product(orders(run, len(times)), product(BASES, PATHS)):
            basis = make_basis(name_of_basis, order, duration, run.config.clips.num_frames_of(duration))
            at_frames = exact
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ProjectionWarning)  # what it warns of is measured here
                if kind == "projected" and order < len(times):
                    path = clip_path(latents[None], basis, kind, times)
                    at_frames = to_frames(path.evaluate(times)[0].float())
                gain = amplification(projection_matrix(times, basis), times, basis)
                between = None
                if len(held) and order <= len(given):
                    path = clip_path(latents[None, given], basis, kind, times[given])
                    made = to_frames(path.evaluate(times[held])[0].float())
                    between = number(psnr(made, truth[held]).mean())
            rows.append(
                {
                    "clip_id": name,
                    "latents": space,
                    "basis": basis.name,
                    "path": kind,
                    "order": order,
                    "at_frames": number(psnr(at_frames, truth).mean()),
                    "between": between,
                    "amplification": number(gain),
                }
            )
            if (space, kind, basis.name) == (INVERTED, "projected", run.config.flow.basis):
                videos[f"order {order}"] = at_frames
    groups = [write_videos(folder, name, stored.caption, videos, run.config.clips.fps)] if shown else []
    return {"rows": rows, "groups": groups}


def _figure(table: list[Row]) -> str:
    """PSNR against the order, a panel per kind of latents, and the amplification of noise below."""
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(3, 1, figsize=(WIDTH, 8.2), layout="constrained", sharex=True)
    marks = {"projected": "o", "hybrid": "s"}
    looks = dict(zip(product(BASES, marks), COLOURS, strict=False))
    for panel, space in zip(axes, (AUTOENCODER, INVERTED), strict=False):
        for (basis, kind), colour in looks.items():
            rows = [row for row in table if (row["latents"], row["basis"], row["path"]) == (space, basis, kind)]
            label = basis if kind == "projected" else f"{basis}, hybrid"
            for name, style, where in (("at_frames", ":", "at the frames"), ("between", "-", "between them")):
                points = [(row["order"], row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in rows]
                x, y, low, high = np.array([point for point in points if np.isfinite(point[1])]).reshape(-1, 4).T
                panel.plot(x, y, style, color=colour, marker=marks[kind], markersize=3.5, label=f"{label}, {where}")
                panel.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
        panel.set(ylabel="PSNR (dB)", title=f"{space} latents")
    for basis in BASES:
        rows = [row for row in table if (row["latents"], row["basis"], row["path"]) == (INVERTED, basis, "projected")]
        colour = looks[basis, "projected"]
        axes[2].plot([row["order"] for row in rows], [row["amplification"] for row in rows], "o-", color=colour)
    axes[2].set(ylabel="amplification", title="noise midway between frames", yscale="log", xlabel="order s")
    axes[2].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    legend_below(figure, axes[0], columns=2)
    return svg(figure, "order")
