"""The evaluation stage: some clips of each split rendered from their captions, and scored after each stage."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.clips.shards import DecodedClip, read_clips
from vlfm.coefficients.shards import ClipCoefficients, read_shard
from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.load import load_decoder
from vlfm.errors import VLFMError
from vlfm.evaluation.buckets import choose_clips
from vlfm.evaluation.metrics import METRICS
from vlfm.flow.projection import reconstruct
from vlfm.frames import to_tensor, to_uint8
from vlfm.latents.store import ClipLatents, LatentStore
from vlfm.model.flow_model import FlowModel
from vlfm.model.frame_times import nearest_frames, shown_times
from vlfm.model.noise import clip_noise
from vlfm.progress import progress
from vlfm.splits import LABELS, SPLITS, TRAIN, splits_met
from vlfm.storage.files import read_json, remove_partial, write_bytes, write_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.storage.locks import sole_writer
from vlfm.storage.pictures import contact_sheet, write_mp4, write_png

STAGES = ("decoder", "inversion", "projection", "network")
COLUMNS = ("clip_id", "split", "fps", "stage", *METRICS)


@dataclass(frozen=True)
class Example:
    """One clip as every stage knows it."""

    clip: DecodedClip
    latents: ClipLatents
    coefficients: ClipCoefficients


def evaluate(
    config: configs.Config,
    shards: list[str],
    results: Path,
    output: Path,
    videos: Path,
    device: torch.device,
    splits: Mapping[str, str] | None = None,
) -> None:
    """Score the clips and render their videos.

    Args:
        shards: names of the shards in the plan; `evaluation.clips` of each split come from as many of
            them as are needed.
        results: the run's folder, read only: clips, latents, coefficients, decoder and model in it.
        output: CSV with a row per clip, frame rate and stage. Every score is a mean over the frames nearest
            to the rate's instants, each rendered at that frame's own presentation time. Rates above the clips' own
            are rendered but not scored: between the frames there is no truth.
        videos: folder for `CLIP_24fps.mp4` …, generated from the captions, `CLIP_true.mp4`, a contact sheet
            `CLIP.png`, and `index.json`, written last.
        splits: shard → `train` or `test`; shards that it lacks hold training clips.

    Scores of finished clips are kept beside `videos`, so that a killed job goes on with the clip it was at.
    """
    identity = fingerprint(
        {
            **configs.settings(config, "evaluation", "seed", "inversion.depth", "inversion.steps"),
            "model": read_json(results / "model" / "training.json")["fingerprint"],
            "decoder": read_json(results / "decoder" / "decoder.json")["fingerprint"],
        }
    )
    partial = videos.parent / f".{videos.name}.partial-{identity}"
    with sole_writer(videos):
        partial.mkdir(parents=True, exist_ok=True)
        model = FlowModel.from_pretrained(results / "model", device)
        decoder = load_decoder(config, results / "decoder", device)
        split_of = {shard: (splits or {}).get(shard, TRAIN) for shard in shards}
        chosen: dict[str, list[str]] = {}
        for split in SPLITS:
            members = [shard for shard in shards if split_of[shard] == split]
            chosen |= choose_clips(results, members, config.evaluation.clips)
        rows: list[dict] = []
        entries: list[dict] = []
        bar = progress(total=sum(map(len, chosen.values())), what="evaluate")
        for shard, clip_ids in chosen.items():
            for example in _examples(results, shard, clip_ids):
                clip_id = example.clip.clip_id
                done = partial / f"{clip_id}.json"
                record = _finished(done, example, videos)
                if record is None:
                    record = _evaluate_clip(config, example, model, decoder, videos)
                    write_json(done, record)
                rows += [{**row, "split": split_of[shard]} for row in record["rows"]]
                entries.append({**record["entry"], "split": split_of[shard]})
                bar.update(1)
        bar.close()

        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_json(videos / "index.json", {"fingerprint": identity, "clips": entries})
        write_bytes(output, text.getvalue().encode())
        remove_partial(partial)
    _tell(rows, config.clips.fps)


def _tell(rows: list[dict], fps: float) -> None:
    """Print the mean PSNR of each stage at the clips' own rate."""
    met = splits_met(row["split"] for row in rows)
    native = [row for row in rows if float(row["fps"]) == fps]
    for split in met:
        which = f", {LABELS[split]} clips" if len(met) > 1 else ""
        for stage in STAGES:
            scores = [row["psnr"] for row in native if (row["split"], row["stage"]) == (split, stage)]
            if scores:
                print(f"{stage:<10} {np.mean(scores):6.2f} dB at {fps:g} frames a second{which}")


def _examples(results: Path, shard: str, clip_ids: list[str]):
    """The chosen clips of a shard, joined across the stores by clip id."""
    wanted = set(clip_ids)
    store = LatentStore(results / "latents" / f"{shard}.zarr")
    coefficients = read_shard(results / "coefficients" / f"{shard}.tar", wanted)
    projected = {clip.clip_id: clip for clip in coefficients}
    for clip in read_clips(results / "clips" / f"{shard}.tar", wanted):
        if clip.clip_id not in projected:
            raise VLFMError(f"clip {clip.clip_id} has latents but no coefficients in shard {shard}; project it again")
        yield Example(clip, store[clip.clip_id], projected[clip.clip_id])


def _finished(done: Path, example: Example, videos: Path) -> dict | None:
    """What a job that was killed said of a clip; None where its caption is another now, or files of it are gone."""
    if not done.exists():
        return None
    record = read_json(done)
    entry = record["entry"]
    whole = all((videos / name).exists() for name in (entry["sheet"], *entry["videos"].values()))
    return record if whole and entry["caption"] == example.clip.caption else None


def _evaluate_clip(
    config: configs.Config, example: Example, model: FlowModel, decoder: VisualDecoder, folder: Path
) -> dict:
    """Score one clip, write its pictures to `folder`; what the CSV and the index say of it."""
    clip_id, times = example.clip.clip_id, example.clip.times
    truth = to_tensor(example.clip.frames)
    duration = example.latents.duration
    rates = {fps: shown_times(fps, duration, times) for fps in config.evaluation.fps}
    # The true times for the scores, every rate's instants for the videos: one evaluation, one decoding.
    instants = np.unique(_rounded(np.concatenate([times, *rates.values()]), duration))
    network = model.latents(
        torch.from_numpy(example.latents.tokens)[None],
        torch.from_numpy(example.latents.mask)[None],
        clip_noise(clip_id, config.seed, example.latents.latents.shape[1:])[None],
        torch.from_numpy(instants),
        config.evaluation.steps,
        duration=duration,
        guidance=config.evaluation.guidance,
        solver=config.evaluation.solver,
        solver_steps=config.evaluation.solver_steps,
    )[0]
    projection = reconstruct(
        torch.from_numpy(example.coefficients.coefficients)[None],
        model.path(duration).basis.evaluate(torch.from_numpy(times))[None],
    )[0]
    count = len(times)
    given = torch.cat([torch.from_numpy(example.latents.latents).to(network), projection.to(network)])
    # What was inverted with guidance is generated with it. A new caption has no null text, so the network goes without.
    null_text = None if example.latents.null_text is None else torch.from_numpy(example.latents.null_text)
    captions = [example.clip.caption]
    generated = decoder.generate(given, captions * len(given), null_text).cpu()
    rendered = decoder.generate(network, captions * len(network)).cpu()
    at = {instant: index for index, instant in enumerate(instants)}
    frames = {
        "decoder": decoder.decode(decoder.encode(truth)).cpu(),
        "inversion": generated[:count],
        "projection": generated[count:],
        "network": rendered[[at[time] for time in _rounded(times, duration)]],
    }
    scores = {
        stage: {name: metric(frames[stage], truth).numpy() for name, metric in METRICS.items()} for stage in STAGES
    }
    rows = [
        {
            "clip_id": clip_id,
            "fps": f"{fps:g}",
            "stage": stage,
            **{
                name: round(float(values[nearest_frames(instants_of_rate, times)].mean()), 4)
                for name, values in scores[stage].items()
            },
        }
        for fps, instants_of_rate in rates.items()
        if fps <= config.clips.fps
        for stage in STAGES
    ]
    names = {}
    for fps, instants_of_rate in rates.items():
        names[f"{fps:g}"] = f"{clip_id}_{fps:g}fps.mp4"
        chosen = [at[instant] for instant in _rounded(instants_of_rate, duration)]
        write_mp4(folder / names[f"{fps:g}"], to_uint8(rendered[chosen]), fps)
    names["true"] = f"{clip_id}_true.mp4"
    write_mp4(folder / names["true"], example.clip.evenly(), config.clips.fps)
    sheet = f"{clip_id}.png"
    pictures = {"true": example.clip.frames, **{stage: to_uint8(frames[stage]) for stage in STAGES}}
    write_png(folder / sheet, contact_sheet(pictures, times, example.clip.caption))
    entry = {"clip_id": clip_id, "caption": example.clip.caption, "sheet": sheet, "videos": names}
    return {"rows": rows, "entry": entry}


def _rounded(times: np.ndarray, duration: float) -> np.ndarray:
    """Instants that are meant to be the same, the same; none after the end, where rounding puts that of 1/6 s."""
    return np.minimum(times.round(9), duration)
