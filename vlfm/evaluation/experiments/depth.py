"""Where on the way to noise paths should live: `inversion.depth` from the autoencoder's latents, 0, to noise, 1.

The stages' own functions invert and project some of the run's clips at each depth, and train a network on them for
`experiments.depth_steps` steps. Measured is what each stage costs and what the network learns of held-out captions: the
deeper, the more a latent looks like noise, to the path and to the network.

Depths above 0 walk with a noise predictor. Where the run's decoder has none (`decoder.embedded.steps: 0`), the sweep
trains one of its own, on the same autoencoder: that is fitted in closed form to the same frames.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.artifacts import read_json, read_tar, write_json, write_tar
from vlfm.coefficients.project import project_shard
from vlfm.errors import VLFMError
from vlfm.evaluation.experiments.common import Run
from vlfm.evaluation.experiments.variants import Variant, projected
from vlfm.latents.fit import fit_decoder
from vlfm.latents.invert import invert_shard, latents_fingerprint
from vlfm.latents.store import LatentStore
from vlfm.splits import TEST, TRAIN
from vlfm.training.loader import batches
from vlfm.training.data import read_moments


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
    if depth and not config.decoder.embedded.steps:
        values["decoder"]["embedded"]["steps"] = config.experiments.depth_predictor_steps
    values["training"] |= {"steps": steps, "warmup": min(config.training.warmup, steps // 5), "preview_every": 0}
    return configs.parse(values, f"the configuration at depth {depth:g}")


def needs_predictor(config: configs.Config) -> bool:
    """Whether the run's decoder lacks the noise predictor that a depth above 0 walks with."""
    return config.decoder.name == "embedded" and not config.decoder.embedded.steps and max(config.experiments.depths) > 0


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
    """Choose the clips, `depth/clips/SHARD.tar`, and train a noise predictor if the run has none, `depth/decoder/`; then
    write `depth/prepared.json`.

    At most `experiments.depth_clips` clips of each split, spread evenly over the run.

    Raises:
        VLFMError: for a decoder without any way to noise.
    """
    if run.config.decoder.name == "autoencoder":
        raise VLFMError("decoder.name is autoencoder, whose latents are at depth 0 alone: there is nothing to compare")
    folder = output / "depth"
    counts = {}
    for split in (TRAIN, TEST):
        wanted = set(run.clip_ids(run.config.experiments.depth_clips, split))
        for shard in (shard for shard in run.shards if run.splits[shard] == split):
            chosen = wanted & set(run.stores[shard].clip_ids)
            samples = read_tar(run.results / "clips" / f"{shard}.tar") if chosen else iter(())
            if chosen:
                kept = (sample for sample in samples if sample["__key__"] in chosen)
                counts[shard] = write_tar(folder / "clips" / f"{shard}.tar", kept)
    if needs_predictor(run.config):
        config = configured(run.config, max(run.config.experiments.depths))
        clips = [run.results / "clips" / f"{shard}.tar" for shard in run.training_shards]
        fit_decoder(config, clips, folder / "decoder", run.device)
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
    run = replace(run, config=config, shards=shards)
    for shard in shards:
        clips = output / "depth" / "clips" / f"{shard}.tar"
        store, tar = here / "latents" / f"{shard}.zarr", here / "coefficients" / f"{shard}.tar"
        if not _is_made(store, clips, latents_fingerprint(config, decoder_folder)):
            invert_shard(config, clips, decoder_folder, store, store.with_suffix(".ledger.parquet"), run.device)
        project_shard(config, store, tar, tar.with_suffix(".json"), tar.with_suffix(".ledger.parquet"))
    variant = projected(run, config, here / "coefficients")
    variant.train(here, run.device)
