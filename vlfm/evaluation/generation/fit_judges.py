"""The judges of a run: fitted to its training clips, kept in its folder `judges`.

Nothing of a test clip is seen. Of a large run some clips are taken, and of each no more is kept than networks see.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.captions.encoders import CaptionEmbeddings
from vlfm.captions.load import caption_encoder_fingerprint, load_caption_encoder
from vlfm.captions.pooling import mean_embedding
from vlfm.clips.moving_digits.language import parse_caption
from vlfm.clips.shards import read_captions, read_clips
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.digits import TRAINING_FRAMES, DigitJudge
from vlfm.evaluation.generation.features import VideoFeatures, prepared, sampled
from vlfm.evaluation.generation.judges import Judges
from vlfm.evaluation.generation.pretrained_features import PretrainedFeatures
from vlfm.evaluation.generation.subset import enough_shards, sampled_clips
from vlfm.evaluation.generation.trained_features import FeatureSettings, TrainedFeatures
from vlfm.progress import progress
from vlfm.storage.files import read_json, remove_partial, write_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.storage.locks import sole_writer

PASSES, LEAST_STEPS = 50, 100  # over few clips, features are trained no longer than so
TRAINED = "trained"  # generation.features, where they are no model's
View = Callable[[np.ndarray], np.ndarray]
SETTINGS = ("clips.fps", "clips.size", "clips.image", "clips.decoder", "generation.features", "seed")


def fit_judges(
    config: configs.Config, counts: Mapping[str, int], clips: Path, output: Path, device: torch.device
) -> None:
    """Fit the judges to training clips and write `output/features/`, `output/digits/` and, last, `output/judges.json`.

    Features are trained where `generation.features` says so and captions differ; the judge of moving digits where all
    captions tell of such. A killed job goes on with the judge it was at.

    Args:
        counts: shard of training clips → how many are planned. As many shards are read as 4,096 clips need.
        clips: the folder of the shards' tars.

    Raises:
        VLFMError: if a shard is damaged, or there is no clip.
    """
    told = {shard: read_captions(clips / f"{shard}.tar") for shard in enough_shards(counts)}
    chosen = sampled_clips({shard: list(captions) for shard, captions in told.items()})
    captions = [told[shard][clip_id] for shard, ids in chosen.items() for clip_id in ids]
    if not captions:
        raise VLFMError(f"{clips} holds no training clip to fit judges to; decode them first: run `snakemake clips`")
    identity = fingerprint(
        {
            **configs.settings(config, *SETTINGS),
            "clips": chosen,
            "captions": captions,
            "encoder": caption_encoder_fingerprint(config),
        }
    )
    trained = config.generation.features == TRAINED and len(set(captions)) > 1
    digits = all(map(_tells_of_digits, captions))
    partial = output / f".partial-{identity}"
    with sole_writer(output):
        partial.mkdir(parents=True, exist_ok=True)
        views: dict[str, View] = {}
        if trained and not (partial / "features" / "features.json").exists():
            views["features"] = _for_features
        if digits and not (partial / "digits" / "digits.json").exists():
            views["digits"] = _for_digits
        seen = _seen(clips, chosen, views)
        if "features" in seen:
            _fit_features(config, seen.pop("features"), captions, device).save(partial / "features")
        if "digits" in seen:
            DigitJudge.fit(seen.pop("digits"), captions, config.seed).save(partial / "digits")
        for name in ("features", "digits"):
            shutil.rmtree(output / name, ignore_errors=True)
            if (partial / name).exists():
                (partial / name).rename(output / name)
        write_json(
            output / "judges.json",
            {"fingerprint": identity, "clips": len(captions), "features": trained, "digits": digits},
        )
        remove_partial(partial)


def load_judges(config: configs.Config, folder: Path, device: torch.device) -> Judges:
    """The judges that `fit_judges` wrote, or the model that `generation.features` names in place of trained features.

    Raises:
        VLFMError: if they were not fitted, or the model is no video network.
    """
    about = read_json(folder / "judges.json")
    features: VideoFeatures | None = None
    if config.generation.features != TRAINED:
        features = PretrainedFeatures(config.generation.features, device, "generation.features")
    elif about["features"]:
        features = TrainedFeatures.load(folder / "features", device)
    return Judges(features, DigitJudge.load(folder / "digits") if about["digits"] else None, config.clips.fps)


def one_token(embeddings: CaptionEmbeddings) -> CaptionEmbeddings:
    """Captions (U, L, D) as the judges read them: the mean of their tokens as their only one, on the CPU.

    Embeddings of a large encoder are gigabytes for a few thousand captions.
    """
    means = mean_embedding(embeddings.tokens, embeddings.mask).cpu()[:, None]
    return CaptionEmbeddings(means, torch.ones(means.shape[:2], dtype=torch.bool))


def _fit_features(
    config: configs.Config, seen: Sequence[np.ndarray], captions: Sequence[str], device: torch.device
) -> TrainedFeatures:
    settings = FeatureSettings()
    enough = max(LEAST_STEPS, PASSES * len(captions) // settings.batch_size)
    settings = replace(settings, steps=min(settings.steps, enough))
    distinct = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    encoder, texts = load_caption_encoder(config, device), list(distinct)
    parts = [one_token(encoder.encode(texts[start : start + 64])) for start in range(0, len(texts), 64)]
    embeddings = CaptionEmbeddings(*(torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "mask")))
    own = np.array([distinct[caption] for caption in captions])
    return TrainedFeatures.fit(seen, embeddings, own, config.seed, settings, device)


def _for_features(frames: np.ndarray) -> np.ndarray:
    """What the features see of a clip's frames (N, H, W, 3)."""
    settings = FeatureSettings()
    return prepared([frames], settings.frames, (settings.side,) * 2)[0].movedim(1, -1).numpy()


def _for_digits(frames: np.ndarray) -> np.ndarray:
    """What the judge of digits sees of a clip's frames (N, H, W, 3)."""
    return frames[sampled(TRAINING_FRAMES, len(frames))]


def _seen(clips: Path, chosen: Mapping[str, Sequence[str]], views: Mapping[str, View]) -> dict[str, list[np.ndarray]]:
    """What each judge sees of the chosen clips, in the order of the shards: a clip is decoded once for all of them."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in views}
    if views:
        bar = progress(total=sum(map(len, chosen.values())), what="clips to judge by")
        for shard, ids in chosen.items():
            for clip in read_clips(clips / f"{shard}.tar", set(ids)):
                frames = clip.evenly()
                for name, view in views.items():
                    seen[name].append(view(frames))
                bar.update(1)
        bar.close()
    return seen


def _tells_of_digits(caption: str) -> bool:
    try:
        parse_caption(caption)
    except ValueError:
        return False
    return True
