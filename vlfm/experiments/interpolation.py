"""Interpolation (Figures 3 and 6): every second frame given, the others made and compared with the true ones.

The truth is the run's own clips, thinned out, and a generated scene, whose frames are known at any instant. Methods
on pixels, on autoencoder latents and on inverted latents stand in one table. `truth` in a space is what the decoder
makes of the true frames: nothing in that space can be expected to be better, unless it carries along what the decoder
lost (`motion, encoded + residual`). The distance to `truth` on pixels is the decoder's share of what a method in that
space loses.

Paths are of the run's order, but at most of what n given frames carry between them (`carried`). Demo, Legendre, 6 of
12 frames given, dB on autoencoder and inverted latents:

| s | linear | 2 | 3 | 4 | 5 | 6 |
| --- | --- | --- | --- | --- | --- | --- |
| hybrid | 26.99, 26.40 | 26.99, 26.40 | 26.98, 26.44 | 26.93, 26.47 | 26.76, 26.17 | 26.08, 22.64 |
| projected | | | 26.45, 25.76 | 26.71, 26.16 | 26.70, 26.02 | 26.08, 22.64 |

What was tried to close the distance to motion compensation on pixels: latents at fixed positions do not move, so

- `motion`: latents moved on their own grid along the flow between the given frames. A position is a patch wide: most
  of a motion is below that, and it helps little;
- `motion, encoded`: the decoded given frames moved, then encoded (inverted) again: the latents of things that moved;
- `motion, encoded + residual`: the same, plus what the decoder lost at the given frames (known there), moved along.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from vlfm.clips.shards import DecodedClip
from vlfm.errors import VLFMError
from vlfm.evaluation.means import means, number
from vlfm.evaluation.metrics import ALL_METRICS, TEMPORAL
from vlfm.experiments.shared.common import COLOURS, cached, concatenate, write_experiment, write_videos
from vlfm.experiments.shared.interpolators import combine, minterpolate
from vlfm.experiments.shared.motion import along_motion, estimate
from vlfm.experiments.shared.scene import scene
from vlfm.finished_run import Coder, Run
from vlfm.flow.bases import BASES
from vlfm.frames import to_tensor
from vlfm.plots import WIDTH, svg
from vlfm.progress import with_progress
from vlfm.storage.tables import Row
from vlfm.video.path_weights import DEFAULT_BASIS, path_weights

METRICS = (*ALL_METRICS, *TEMPORAL)
PIXELS, DECODED, AUTOENCODER, INVERTED = "pixels", "pixels, decoded", "autoencoder", "inverted"
PATHS = {  # method → path, basis
    "latent linear": ("linear", DEFAULT_BASIS),  # which these two do not look at
    "latent cubic": ("cubic", DEFAULT_BASIS),
    "cosine": ("projected", "cosine"),
    "legendre": ("projected", "legendre"),
    "cosine hybrid": ("hybrid", "cosine"),
    "legendre hybrid": ("hybrid", "legendre"),
}
SHOWN = (
    (PIXELS, "truth"),
    (PIXELS, "blend"),
    (PIXELS, "minterpolate"),
    (PIXELS, "motion"),
    (INVERTED, "latent linear"),
    (INVERTED, "cosine hybrid"),
    (INVERTED, "motion, encoded"),
    (INVERTED, "motion, encoded + residual"),
)


def run(run: Run, output: Path) -> None:
    """Write `interpolation.csv`, `.svg` and the folder `interpolation/` in `output`; see `common.write_experiment`.

    The table has a row per source (`clips`, `scene`), space and method, best first: means over clips with 95 %
    intervals. PSNR, SSIM and VMAF are of the held-out frames; `difference_psnr` and `flicker` of the video.

    Raises:
        VLFMError: if clips have fewer than 3 frames.
    """
    settings = run.config.experiments
    folder = output / "interpolation"
    names = run.clip_ids(settings.clips)
    decoded = run.frames(names)
    with cached(folder, run.identity("flow", "experiments", clips=names)) as measured:
        records = [
            measured(name, _of_clip, run, name, decoded[name], folder, index < settings.videos)
            for index, name in enumerate(with_progress(names, "interpolation"))
        ]
        size = decoded[names[0]].frames.shape[1:3]
        records += [measured(f"scene-{seed}", _of_scene, run, seed, size, folder) for seed in range(settings.scenes)]
        rows, groups = concatenate(records)
        table = means(rows, ("source", "space", "method"), METRICS, run.config.seed)
        table.sort(key=lambda row: (row["source"], -row["psnr"]))
        write_experiment(
            output,
            "interpolation",
            "Interpolation: every second frame is given",
            _caption(table),
            table,
            {"clips": rows},
            _figure(table),
            groups,
        )
    print(_caption(table))


def _of_clip(run: Run, name: str, clip: DecodedClip, folder: Path, shown: bool) -> dict:
    stored = run.latents(name)
    latents = torch.from_numpy(stored.latents)
    held = Held(run.coder(stored), to_tensor(clip.frames), clip.times, latents, 0, run.config.flow.order)
    return _record(held, "clips", name, stored.caption, folder, run.config.clips.fps, shown)


def _of_scene(run: Run, seed: int, size: tuple[int, int], folder: Path) -> dict:
    """Twice the frames of a clip, every second of them given: at the clips' own times."""
    fps = run.config.clips.fps
    times = np.arange(1, 2 * round(fps * run.config.clips.shortest) + 1) / (2 * fps)
    frames = to_tensor(scene(run.config.seed + seed).frames(times, size))
    held = Held(run.coder(), frames, times, None, 1, run.config.flow.order)
    return _record(held, "scene", f"scene-{seed}", f"generated scene {seed}", folder, 2 * fps, seed == 0)


def carried(kind: str, basis: str, order: int, given: int) -> int:
    """The order of a path of this kind through `given` frames: `order`, lowered to what they carry between them.

    The projection of a hybrid path can do with less, as residuals are added to it: it gets what half the frames carry.
    """
    frames = max(1, given // 2) if kind == "hybrid" else given
    return min(order, BASES[basis].safe_order(frames))


class Held:
    """Frames of which every second is given, and every method's guess at the others.

    Args:
        frames: (N, 3, H, W) in [−1, 1], all true ones. times: (N,), seconds.
        latents: (N, C, h, w), the frames inverted; None to invert them here.
        start: the first given frame.
        order: of the paths, at most.

    Attributes:
        times, truth: of the frames from the first given one to the last.
        given, held: their places among these.
    """

    def __init__(
        self,
        coder: Coder,
        frames: torch.Tensor,
        times: np.ndarray,
        latents: torch.Tensor | None,
        start: int,
        order: int,
    ):
        given = np.arange(start, len(frames), 2)
        if len(given) < 2:
            raise VLFMError(
                f"interpolation withholds every second frame and needs clips of 3 frames or more, not {len(frames)}"
            )
        window = slice(given[0], given[-1] + 1)
        self.coder = coder
        self.times, self.truth = times[window], frames[window]
        self.latents = None if latents is None else latents[window]
        count = len(self.times)
        self.given, self.held = np.arange(0, count, 2), np.arange(1, count, 2)
        self.order = order

    def videos(self) -> dict[tuple[str, str], torch.Tensor]:
        """(space, method) → (N, 3, H, W): every method's video, given frames as the method shows them."""
        given, pictures = self.given, self.truth[self.given]
        motions = [estimate(pictures[index], pictures[index + 1]) for index in range(len(given) - 1)]

        def moved(values: torch.Tensor) -> torch.Tensor:
            return along_motion(motions, values, self.times[given], self.times[self.held])

        made: dict[tuple[str, str], torch.Tensor] = {(PIXELS, "truth"): self.truth}
        pixels = {
            "repeat": self._path("repeat", pictures),
            "blend": self._path("linear", pictures),
            "minterpolate": self._minterpolate(pictures),
            "motion": moved(pictures).clamp(-1, 1),
        }
        coder = self.coder
        encoded = coder.encode(self.truth)
        made[AUTOENCODER, "truth"] = coder.decode(encoded)
        for method, held in pixels.items():
            made[PIXELS, method] = self._video(pictures, held)
            made[DECODED, method] = self._video(made[AUTOENCODER, "truth"][given], coder.decode(coder.encode(held)))
        inverted = coder.invert(self.truth) if self.latents is None else self.latents
        made[INVERTED, "truth"] = coder.generate(inverted)
        for space, latents, to_latents, to_frames in (
            (AUTOENCODER, encoded, coder.encode, coder.decode),
            (INVERTED, inverted, coder.invert, coder.generate),
        ):
            made |= {
                (space, method): video
                for method, video in self._in_latents(
                    latents[given], made[space, "truth"][given], moved, to_latents, to_frames
                ).items()
            }
        return made

    def scores(self, video: torch.Tensor) -> dict[str, float | None]:
        """Each metric of `METRICS`, a mean over the held-out frames or over the video."""
        frames, truth = video[self.held], self.truth[self.held]
        values = {name: metric(frames, truth) for name, metric in ALL_METRICS.items()}
        values |= {name: metric(video, self.truth) for name, metric in TEMPORAL.items()}
        return {name: number(value.mean()) for name, value in values.items()}

    def _in_latents(
        self,
        latents: torch.Tensor,
        shown: torch.Tensor,
        moved: Callable[[torch.Tensor], torch.Tensor],
        to_latents: Callable[[torch.Tensor], torch.Tensor],
        to_frames: Callable[[torch.Tensor], torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """The methods on the latents of the given frames, which are `shown` when decoded."""

        def video(held: torch.Tensor) -> torch.Tensor:
            return self._video(shown, to_frames(held))

        made = {}
        for method, (kind, basis) in PATHS.items():
            if kind == "projected":
                # It misses the given frames too.
                made[method] = to_frames(self._path(kind, latents, slice(None), basis))
            else:
                made[method] = video(self._path(kind, latents, self.held, basis))
        made["motion"] = video(moved(latents))
        encoded = video(to_latents(moved(shown).clamp(-1, 1)))
        residual = self.truth[self.given] - shown
        made["motion, encoded"] = encoded
        made["motion, encoded + residual"] = (encoded + self._video(residual, moved(residual))).clamp(-1, 1)
        return made

    def _path(
        self, kind: str, values: torch.Tensor, where: np.ndarray | slice | None = None, basis: str = DEFAULT_BASIS
    ) -> torch.Tensor:
        """The values at `where`, by default the held-out ones, by a path through the given ones."""
        order = carried(kind, basis, self.order, len(self.given))
        instants = self.times[self.held if where is None else where]
        return combine(path_weights(kind, self.times[self.given], instants, order, basis=basis), values)

    def _minterpolate(self, pictures: torch.Tensor) -> torch.Tensor:
        # It knows rates, not times: where a camera's times are uneven it gets nominal ones, as a video player has it.
        try:
            return minterpolate(pictures, self.times[self.given], self.times[self.held])
        except VLFMError:
            return minterpolate(pictures, self.given.astype(float), self.held.astype(float))

    def _video(self, given: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        video = torch.empty(len(self.times), *given.shape[1:])
        video[self.given], video[self.held] = given, held
        return video


def _record(held: Held, source: str, name: str, title: str, folder: Path, fps: float, shown: bool) -> dict:
    videos = held.videos()
    rows: list[Row] = [
        {"source": source, "clip_id": name, "space": space, "method": method, **held.scores(video)}
        for (space, method), video in videos.items()
        if (space, method) != (PIXELS, "truth")
    ]
    labelled = {_label(*key): videos[key] for key in SHOWN}
    groups = [write_videos(folder, name, title, labelled, fps)] if shown else []
    return {"rows": rows, "groups": groups}


def _label(space: str, method: str) -> str:
    return "true frames" if (space, method) == (PIXELS, "truth") else f"{method} ({space})"


def _caption(table: list[Row]) -> str:
    """The distances in words: the methods', and the decoder's share of them."""
    sentences = []
    for source in dict.fromkeys(row["source"] for row in table):
        psnr = {(row["space"], row["method"]): row["psnr"] for row in table if row["source"] == source}
        best = max((key for key in psnr if key[0] == INVERTED and key[1] != "truth"), key=psnr.get)
        ahead = psnr[PIXELS, "minterpolate"]
        sentences.append(
            f"{source}: minterpolate {ahead:.2f} dB on pixels, {psnr[DECODED, 'minterpolate']:.2f} dB after a decoder "
            f"round trip: the decoder's share is {ahead - psnr[DECODED, 'minterpolate']:.2f} dB. On inverted latents "
            f"cosines {psnr[INVERTED, 'cosine']:.2f} dB, hybrid {psnr[INVERTED, 'cosine hybrid']:.2f} dB; Legendre "
            f"{psnr[INVERTED, 'legendre']:.2f} dB, hybrid {psnr[INVERTED, 'legendre hybrid']:.2f} dB; linear "
            f"{psnr[INVERTED, 'latent linear']:.2f} dB (the decoder on the true frames: "
            f"{psnr[INVERTED, 'truth']:.2f}). "
            f"Best there: {best[1]}, {psnr[best]:.2f} dB, {psnr[best] - ahead:+.2f} dB from minterpolate."
        )
    return " ".join(sentences)


def _figure(table: list[Row]) -> str:
    """Mean PSNR with its interval, a panel per source, best on top; colours are spaces."""
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    spaces = {PIXELS: COLOURS[4], DECODED: COLOURS[5], AUTOENCODER: COLOURS[2], INVERTED: COLOURS[0]}
    sources = list(dict.fromkeys(row["source"] for row in table))
    figure, axes = pyplot.subplots(
        len(sources), 1, figsize=(WIDTH, 0.2 * len(table) + 1.6), layout="constrained", squeeze=False
    )
    for panel, source in zip(axes[:, 0], sources, strict=True):
        rows = [row for row in table if row["source"] == source][::-1]
        for place, row in enumerate(rows):
            panel.barh(place, row["psnr"], color=spaces[row["space"]], alpha=0.45 if row["method"] == "truth" else 1)
            if np.isfinite(row["psnr_low"]):
                panel.plot([row["psnr_low"], row["psnr_high"]], [place, place], "k-", linewidth=1)
        panel.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=7)
        panel.set(title=source, xlim=(min(row["psnr"] for row in rows) - 3, None), ylim=(-0.6, len(rows) - 0.4))
        panel.grid(alpha=0.3, axis="x")
    axes[-1, 0].set_xlabel("PSNR of the held-out frames (dB)")
    handles = [Patch(color=colour, label=space) for space, colour in spaces.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8.5, frameon=False)
    return svg(figure, "interpolation")
