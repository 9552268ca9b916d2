"""Extrapolation: the first T seconds of a longer truth given, rendered to several T with every tail.

Longer truths are consecutive windows of one source in the manifest, joined, and the generated scene. A path ends at T;
what follows is one of the tails of `vlfm.flow.tails`, on autoencoder latents, on inverted latents (both the hybrid path
of the given frames) and on the path that the trained network draws from the caption (the paper's). Where the growth of
a basis passes its limit the tail `continued` is refused, and reported as refused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from vlfm.clips.shards import DecodedClip
from vlfm.errors import VLFMError
from vlfm.evaluation.means import means, number
from vlfm.evaluation.metrics import METRICS
from vlfm.experiments.shared.common import COLOURS, cached, concatenate, write_experiment, write_videos
from vlfm.experiments.shared.scene import scene
from vlfm.finished_run import Run
from vlfm.flow.bases import BASES, make_basis
from vlfm.flow.interpolation import HybridPath, clip_path
from vlfm.flow.projection import frame_times
from vlfm.flow.tails import TAILS, ExtendedPath, reach
from vlfm.frames import to_tensor
from vlfm.latents.store import ClipLatents
from vlfm.plots import WIDTH, legend_below, svg
from vlfm.progress import with_progress
from vlfm.spread import spread
from vlfm.storage.manifest import Clip, read_manifest
from vlfm.storage.tables import Row

STRIDE = 2  # of the frames beyond T every second one is rendered: decoding is what takes the time
BIN = 0.5  # rows are for stretches of T/2 beyond T
PIXELS, AUTOENCODER, INVERTED, NETWORK = "pixels", "autoencoder", "inverted", "network"


def run(run: Run, output: Path) -> None:
    """Write `extrapolation.csv`, `.svg` and the folder `extrapolation/` in `output`; see `common.write_experiment`.

    A row of the table is one source, one space, one tail and one stretch `from` … `to`, seconds beyond T: means over
    clips with 95 % intervals. `refused` is the share of its instants that the tail refuses; the scores are of the
    others. `repeat` on pixels is the last true frame; `truth` in the autoencoder is the decoder's own loss.

    Raises:
        VLFMError: if no window of the run continues another and there is no scene.
    """
    settings = run.config.experiments
    folder = output / "extrapolation"
    chains = choose(chained(run), settings.clips)
    decoded = run.frames(clip.clip_id for chain in chains for clip in chain)
    identity = run.identity(
        "flow", "experiments", "evaluation", model=True, chains=[[clip.clip_id for clip in chain] for chain in chains]
    )
    with cached(folder, identity) as measured:
        records = [
            measured(chain[0].clip_id, _of_chain, run, chain, decoded, folder, index < settings.videos)
            for index, chain in enumerate(with_progress(chains, "extrapolation"))
        ]
        records += [measured(f"scene-{seed}", _of_scene, run, seed, folder) for seed in range(settings.scenes)]
        rows, groups = concatenate(records)
        if not rows:
            raise VLFMError(
                "extrapolation needs a truth beyond a clip, and no clip of this run begins where another ends: list "
                "consecutive windows of a source in clips.index, or set experiments.scenes"
            )
        table = means(rows, ("source", "space", "method", "from", "to"), ("refused", *METRICS), run.config.seed)
        for row in table:
            del row["refused_low"], row["refused_high"]
        caption = (
            f"The first T seconds are given, the rest is made, up to {settings.extend:g} T, at "
            f"{run.config.clips.fps / STRIDE:g} frames a second. Tails refused past their growth are not shown."
        )
        write_experiment(
            output,
            "extrapolation",
            "Extrapolation: beyond the end",
            caption,
            table,
            {"clips": rows},
            _figure(table),
            groups,
        )


def _of_chain(run: Run, chain: list[Clip], decoded: dict[str, DecodedClip], folder: Path, shown: bool) -> dict:
    first = chain[0].clip_id
    stored = run.latents(first)
    parts = [decoded[part.clip_id] for part in chain]
    times = np.concatenate([part.times + at.start - chain[0].start for part, at in zip(parts, chain, strict=True)])
    frames = to_tensor(np.concatenate([part.frames for part in parts]))
    longer = Longer(run, frames, times, stored.duration, stored)
    return _record(longer, "clips", first, stored.caption, folder, shown)


def _of_scene(run: Run, seed: int, folder: Path) -> dict:
    store = next(iter(run.stores.values()))
    fps, duration = run.config.clips.fps, run.config.clips.shortest
    times = np.arange(1, round(fps * duration * run.config.experiments.extend) + 1) / fps
    frames = to_tensor(scene(run.config.seed + seed).frames(times, (store.height, store.width)))
    longer = Longer(run, frames, times, duration)
    return _record(longer, "scene", f"scene-{seed}", f"generated scene {seed}", folder, seed == 0)


def chained(run: Run) -> list[list[Clip]]:
    """For every clip with a successor: the clip and those that follow it without a gap, up to `extend` lengths.

    Clips with fewer than N frames are in none. A window follows another if it is of the same source, length and size
    and begins within a frame interval of the other's end.
    """
    known = {
        name for store in run.stores.values() for name, length in store.lengths.items() if length == store.num_frames
    }
    manifest = read_manifest(run.results / "clips" / "manifest.parquet")
    clips = sorted((clip for clip in manifest if clip.clip_id in known), key=lambda clip: (clip.source, clip.start))
    longest = int(run.config.experiments.extend)
    chains = []
    for index, first in enumerate(clips):
        chain = [first]
        for clip in clips[index + 1 :]:
            gap = clip.start - chain[-1].end
            alike = (clip.source, clip.height, clip.width) == (first.source, first.height, first.width)
            if len(chain) == longest or not alike or gap > 1 / run.config.clips.fps:
                break
            if gap > -1e-3 and abs(clip.duration - first.duration) < 1e-3:
                chain.append(clip)
        if len(chain) > 1:
            chains.append(chain)
    return chains


def choose(chains: Sequence[list[Clip]], limit: int) -> list[list[Clip]]:
    """At most `limit`, the longest; among those of one length spread evenly."""
    chosen: list[list[Clip]] = []
    for length in sorted({len(chain) for chain in chains}, reverse=True):
        chosen += spread([chain for chain in chains if len(chain) == length], limit - len(chosen))
    return chosen


class Longer:
    """A truth longer than T, of which the first T seconds are given.

    Args:
        frames: (M, 3, H, W) in [−1, 1]. times: (M,), seconds. duration: T.
        stored: what the run holds of the first T seconds: their latents and the caption that the network starts from;
            None to invert them here and leave the network out.

    Attributes:
        times, truth: of the frames beyond T that are rendered and scored.
    """

    def __init__(
        self, run: Run, frames: torch.Tensor, times: np.ndarray, duration: float, stored: ClipLatents | None = None
    ):
        self.run, self.duration, self.stored = run, duration, stored
        self.coder = run.coder(stored)
        inside = times <= duration + 1e-6
        self.given, self.given_times = frames[inside], times[inside]
        self.times, self.truth = times[~inside][STRIDE - 1 :: STRIDE], frames[~inside][STRIDE - 1 :: STRIDE]
        self.inverted = self.coder.invert(self.given) if stored is None else torch.from_numpy(stored.latents)

    def paths(self) -> Iterator[tuple[str, str, str, HybridPath, Callable[[torch.Tensor], torch.Tensor]]]:
        """Space, method, tail, the path of the clip on [0, T] and what decodes its latents."""
        times = torch.from_numpy(self.given_times)
        encoded, coder = self.coder.encode(self.given), self.coder
        spaces = {AUTOENCODER: (encoded, times, coder.decode), INVERTED: (self.inverted, times, coder.generate)}
        own = self.run.config.flow.basis
        for space, (latents, at, to_frames) in spaces.items():
            for method, tail, basis in methods(own, BASES):
                yield space, method, tail, self._through(latents, at, basis), to_frames
        if self.stored is not None:
            # What the head `coefficients` drew lies on this basis: nothing is lost by fitting it again.
            at = frame_times(len(self.stored.times), self.duration)
            path = self._through(self.run.rendered(self.stored, at), at, own)
            for method, tail, _ in methods(own, (own,)):
                yield NETWORK, method, tail, path, coder.without_null_text().generate

    def videos(self) -> dict[tuple[str, str], tuple[torch.Tensor, np.ndarray]]:
        """(space, method) → frames beyond T, and which of the instants they are: the others were refused."""
        everything = np.arange(len(self.times))
        made = {
            (PIXELS, "repeat"): (self.given[-1:].expand_as(self.truth), everything),
            (AUTOENCODER, "truth"): (self.coder.decode(self.coder.encode(self.truth)), everything),
        }
        for space, method, tail, path, to_frames in self.paths():
            extended = ExtendedPath(path, tail)
            allowed = everything
            if tail == "continued":
                allowed = everything[self.times <= reach(path.projected.basis, extended.max_growth)]
            if not len(allowed):
                made[space, method] = (self.truth[:0], allowed)
                continue
            latents = extended.evaluate(torch.from_numpy(self.times[allowed]))[0].float()
            # What stands still is decoded once.
            unique, places = torch.unique(latents, dim=0, return_inverse=True)
            made[space, method] = (to_frames(unique)[places], allowed)
        return made

    def _through(self, latents: torch.Tensor, times: torch.Tensor, basis: str) -> HybridPath:
        frames = self.run.config.clips.num_frames_of(self.duration)
        flow = self.run.config.flow
        # Another basis than the run's gets what the frames carry.
        order = flow.order if basis == flow.basis else min(flow.order, BASES[basis].safe_order(len(times)))
        return clip_path(latents[None], make_basis(basis, order, self.duration, frames), "hybrid", times)


def methods(own: str, bases: Iterable[str]) -> list[tuple[str, str, str]]:
    """Method, tail, basis: every tail on the run's `own` basis, `continued` on each of `bases`."""
    tails = [(tail, tail, own) for tail in TAILS if tail != "continued"]
    return [*tails, *((f"continued, {basis}", "continued", basis) for basis in bases)]


def _record(longer: Longer, source: str, name: str, title: str, folder: Path, shown: bool) -> dict:
    videos = longer.videos()
    edge = longer.duration * BIN
    which = np.floor((longer.times - longer.duration - 1e-6) / edge).astype(int)
    rows: list[Row] = []
    for (space, method), (frames, allowed) in videos.items():
        truth = longer.truth[allowed]
        scores = (
            {metric: function(frames, truth).numpy() for metric, function in METRICS.items()} if len(frames) else {}
        )
        for stretch in np.unique(which):
            here = which[allowed] == stretch
            rows.append(
                {
                    "source": source,
                    "clip_id": name,
                    "space": space,
                    "method": method,
                    "from": round(float(stretch * edge), 4),
                    "to": round(float((stretch + 1) * edge), 4),
                    "refused": float(1 - here.sum() / (which == stretch).sum()),
                    **{metric: number(scores[metric][here].mean()) if here.any() else None for metric in METRICS},
                }
            )
    groups = []
    if shown:
        before = longer.given[::STRIDE]
        labelled = {"true frames": longer.truth}
        labelled |= {
            f"{method} ({space})": frames
            for (space, method), (frames, allowed) in videos.items()
            if len(allowed) == len(longer.times) and space in (INVERTED, NETWORK)
        }
        rate = longer.run.config.clips.fps / STRIDE
        whole = {label: torch.cat([before, frames]) for label, frames in labelled.items()}
        groups.append(write_videos(folder, name, title, whole, rate))
    return {"rows": rows, "groups": groups}


def _figure(table: list[Row]) -> str:
    """PSNR against seconds beyond T, a panel per source; the spaces are line styles, the tails colours."""
    from matplotlib import pyplot

    styles = {PIXELS: "-", AUTOENCODER: ":", INVERTED: "-", NETWORK: "--"}
    names = dict.fromkeys(row["method"] for row in table)
    colours = dict(
        zip(
            ("repeat", "truth", *(name for name in names if name not in ("repeat", "truth"))),
            COLOURS[6:] + COLOURS,
            strict=False,
        )
    )
    sources = list(dict.fromkeys(row["source"] for row in table))
    figure, axes = pyplot.subplots(
        len(sources), 1, figsize=(WIDTH, 3.0 * len(sources) + 1.2), layout="constrained", sharex=True, squeeze=False
    )
    for panel, source in zip(axes[:, 0], sources, strict=True):
        for space, method in dict.fromkeys((row["space"], row["method"]) for row in table if row["source"] == source):
            chosen = [
                row
                for row in table
                if (row["source"], row["space"], row["method"]) == (source, space, method) and np.isfinite(row["psnr"])
            ]
            if chosen:
                middle = [(row["from"] + row["to"]) / 2 for row in chosen]
                panel.plot(
                    middle,
                    [row["psnr"] for row in chosen],
                    styles[space],
                    marker="o",
                    markersize=3,
                    color=colours[method],
                    label=f"{method} ({space})",
                )
        panel.set(ylabel="PSNR (dB)", title=source)
    axes[-1, 0].set_xlabel("seconds beyond T")
    legend_below(figure, axes[0, 0], columns=2)
    return svg(figure, "extrapolation")
