"""Where on the way to noise paths should live: `inversion.depth` from the autoencoder's latents, 0, to noise, 1.

The stages' own functions invert and project some of the run's clips at each depth, and train a network on them for
`experiments.depth_steps` steps. What each stage costs is measured, and what the network learns of held-out captions:
the deeper, the more a latent looks like noise, to the path and to the network.

Depths above 0 walk with a noise predictor. Where the run's decoder has none (its depth is 0), the sweep
trains one of its own, on the run's autoencoder.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlfm import config as configs
from vlfm.coefficients.basis import clip_basis
from vlfm.coefficients.project import project_shard
from vlfm.coefficients.shards import read_shard
from vlfm.decoders.fit_embedded import fit_decoder
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.sources import generated
from vlfm.evaluation.means import number
from vlfm.experiments.shared.common import COLOURS, write_experiment
from vlfm.experiments.shared.judged import Headline, Jury, headline, ordered, side_by_side
from vlfm.experiments.shared.path_errors import round_trip_and_loss, share_left
from vlfm.experiments.shared.variants import Variant, projected
from vlfm.finished_run import Run
from vlfm.latents.invert import invert_shard, latents_fingerprint
from vlfm.latents.store import LatentStore
from vlfm.model.flow_model import FlowModel
from vlfm.plots import WIDTH, svg
from vlfm.splits import LABELS, SPLITS
from vlfm.spread import spread
from vlfm.storage.files import read_json, write_json
from vlfm.storage.tables import Row
from vlfm.storage.tar import read_tar, write_tar
from vlfm.training.objective import Objective
from vlfm.words import plural

TOLD = ("depth", "split", "round_trip", "projection_loss", "left")  # columns before the scores


def configured(config: configs.Config, depth: float) -> configs.Config:
    """The configuration of one depth.

    Raises:
        VLFMError: if it does not fit the rest of the configuration.
    """
    values = config.model_dump()
    steps = config.experiments.depth_steps
    values["inversion"]["depth"] = depth
    if not depth:
        values["inversion"] |= {"null_text": 0, "guidance": 1.0}
    values["training"] |= {"steps": steps, "warmup": min(config.training.warmup, steps // 5), "preview_every": 0}
    return configs.parse(values, f"the configuration at depth {depth:g}")


def needs_predictor(config: configs.Config) -> bool:
    """Whether the run's decoder lacks the noise predictor that a depth above 0 walks with."""
    return config.decoder.name == "embedded" and not config.predictor_steps and max(config.experiments.depths) > 0


def _decoder_folder(run: Run, output: Path) -> Path:
    return (output / "depth" if needs_predictor(run.config) else run.results) / "decoder"


# ------------------------------------------------------------------------------------------- parts


def run_part(run: Run, output: Path, part: str) -> None:
    """`prepare`, or one depth; see `prepare` and `try_depth`.

    Raises:
        VLFMError: for a part that is no number in [0, 1].
    """
    if part == "prepare":
        return prepare(run, output)
    try:
        depth = float(part)
    except ValueError:
        raise VLFMError(f"--part {part}: depth has the part `prepare` and depths from 0 to 1") from None
    try_depth(run, output, depth)


def prepare(run: Run, output: Path) -> None:
    """Choose the clips, `depth/clips/SHARD.tar`, train a noise predictor if the run has none, `depth/decoder/`, and
    write `depth/prepared.json`, last.

    At most `experiments.depth_clips` clips of each split, spread evenly over the run.

    Raises:
        VLFMError: for a decoder without any way to noise.
    """
    if run.config.decoder.name == "autoencoder":
        raise VLFMError("decoder.name is autoencoder, whose latents are at depth 0 alone: there is nothing to compare")
    folder = output / "depth"
    counts = {}
    for split in SPLITS:
        wanted = set(run.clip_ids(run.config.experiments.depth_clips, split))
        for shard in (shard for shard in run.shards if run.splits[shard] == split):
            if chosen := wanted & set(run.stores[shard].clip_ids):
                samples = read_tar(run.results / "clips" / f"{shard}.tar", chosen)
                counts[shard] = write_tar(folder / "clips" / f"{shard}.tar", samples)
    if needs_predictor(run.config):
        config = configured(run.config, max(run.config.experiments.depths))
        clips = [run.results / "clips" / f"{shard}.tar" for shard in run.training_shards]
        fit_decoder(config, clips, folder / "decoder", run.device, autoencoder=run.decoder.autoencoder)
    write_json(folder / "prepared.json", {"clips": counts})


def try_depth(run: Run, output: Path, depth: float) -> None:
    """Invert, project and train at one depth, in `depth/DEPTH/`, and measure it; `result.json` is written last.

    A killed job goes on with the batch or the step it was at.

    Raises:
        VLFMError: as the stages do, and if `prepare` has not run.
    """
    here, config = output / "depth" / f"{depth:g}", configured(run.config, depth)
    decoder_folder = _decoder_folder(run, output)
    shards = sorted(read_json(output / "depth" / "prepared.json")["clips"])
    whole, run = run, replace(run, config=config, shards=shards, decoder_folder=decoder_folder)
    for shard in shards:
        clips = output / "depth" / "clips" / f"{shard}.tar"
        store, tar = here / "latents" / f"{shard}.zarr", here / "coefficients" / f"{shard}.tar"
        if not _is_made(store, clips, latents_fingerprint(config, decoder_folder)):
            invert_shard(config, clips, decoder_folder, store, store.with_suffix(".ledger.parquet"), run.device)
        project_shard(config, store, tar, tar.with_suffix(".json"), tar.with_suffix(".ledger.parquet"))
    variant = projected(run, config, here / "coefficients")
    variant.train(here, run.device)
    model = FlowModel.from_pretrained(here / "model", run.device)
    jury, source, rows = Jury(whole), generated(run, model), []
    for split in jury.splits:
        members = [shard for shard in shards if run.splits[shard] == split]
        rows.append(
            {
                "depth": depth,
                "split": split,
                **_costs(run, here, members),
                "left": _left(variant, model, [here / "coefficients" / f"{shard}.tar" for shard in members]),
                **jury.row(split, source),
            }
        )
    videos = jury.videos(here, f"depth {depth:g}", source, f"{here.name}/")
    write_json(here / "result.json", {"rows": rows, "videos": videos})
    shutil.rmtree(here / "checkpoints", ignore_errors=True)


def _is_made(store: Path, clips: Path, identity: str) -> bool:
    """Whether an earlier job, killed since, has inverted this shard from the same clips with the same settings. A store
    made otherwise is removed."""
    if not store.exists():
        return False
    if LatentStore(store).fingerprint == identity and store.stat().st_mtime > clips.stat().st_mtime:
        return True
    shutil.rmtree(store)
    return False


def _costs(run: Run, here: Path, shards: Sequence[str]) -> Row:
    """Of a split: PSNR of the round trip through inversion, and what the path costs in dB, over `evaluation.clips`."""
    stores = {shard: LatentStore(here / "latents" / f"{shard}.zarr") for shard in shards}
    names = spread([name for store in stores.values() for name in store.clip_ids], run.config.evaluation.clips)
    decoded, measured = run.frames(names), []
    for shard, store in stores.items():
        for clip in read_shard(here / "coefficients" / f"{shard}.tar", decoded):
            basis = clip_basis(run.config, clip.duration)
            measured.append(round_trip_and_loss(run.decoder, decoded[clip.clip_id], store[clip.clip_id], clip, basis))
    round_trip, lost = np.mean(measured, axis=0)
    return {"round_trip": number(round_trip), "projection_loss": number(lost)}


def _left(variant: Variant, model: FlowModel, shards: list[Path]) -> float | None:
    """The share of H's energy that the network misses; None for heads that do not predict H."""
    config = variant.config
    if config.model.head != "coefficients":
        return None
    told = config.training.model_copy(update={"caption_dropout": 0.0})
    return number(share_left(model, Objective(config.model_copy(update={"training": told})), shards))


# ---------------------------------------------------------------------------------------- gathered


def run(run: Run, output: Path) -> None:
    """Write `depth.csv` and `.svg` and `depth/index.json` from the results that `try_depth` left in `output`; see
    `common.write_experiment`.

    A row is a depth and a split: PSNR of the round trip, dB lost to the path, the share of H's energy that is left
    after training, and the scores of what the network makes of captions, with 95 % intervals over captions.

    Raises:
        VLFMError: if a depth has not been tried.
    """
    depths = sorted(set(run.config.experiments.depths))
    results = [read_json(output / "depth" / f"{depth:g}" / "result.json") for depth in depths]
    jury = Jury(run)
    table = [ordered(row, TOLD) for result in results for row in result["rows"]]
    best, split = headline(table), jury.splits[-1]
    mine = [row for row in table if row["split"] == split]
    caption = (
        f"{plural(run.config.experiments.depth_steps, 'training step')} at each depth. {best.title.capitalize()}, "
        f"{LABELS[split]} captions: "
        + "; ".join(
            f"depth {row['depth']:g} {row[best.name]:.0%}, round trip {row['round_trip']:.2f} dB, "
            f"{round(row['projection_loss'], 2) + 0:.2f} dB lost to the path"
            for row in mine
        )
    )
    videos = [jury.true_videos(output / "depth"), *(result["videos"] for result in results)]
    title = "Where on the way to noise the paths live"
    write_experiment(output, "depth", title, caption, table, {}, _figure(mine, best), side_by_side(videos))
    print(caption)


def _figure(rows: Sequence[Row], best: Headline) -> str:
    """The score and the energy left, and what inversion and path cost, against depth."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 1, figsize=(WIDTH, 5.2), layout="constrained", sharex=True)
    depths = [row["depth"] for row in rows]
    shown = [(panels[0], best.name, best.title), (panels[0], "left", "energy of H left")]
    shown += [(panels[1], "round_trip", "round trip"), (panels[1], "projection_loss", "lost to the path")]
    for (axes, name, title), colour in zip(shown, COLOURS, strict=False):
        if all(row[name] is not None for row in rows):
            axes.plot(depths, [row[name] for row in rows], "o-", color=colour, markersize=3.5, label=title)
    panels[0].set(ylabel="share", ylim=(0, None))
    panels[1].set(xlabel="depth", ylabel="dB", ylim=(0, None))
    for axes in panels:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8.5, frameon=False)
    return svg(figure, "depth")
