"""What a set of clips made of captions is worth, as one row of numbers, whatever made the clips.

Clips are looked at once, by `Judges.view`; frames are not needed after that. What judges saw of generated clips is
compared with what they saw of true ones (`score`): true clips of the same captions, and those of the training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlfm.captions.encoders import CaptionEmbeddings
from vlfm.clips.moving_digits.language import ATTRIBUTES
from vlfm.errors import VLFMError
from vlfm.evaluation.generation.copying import TrainingClips
from vlfm.evaluation.generation.distances import diversity, frechet, precision_recall
from vlfm.evaluation.generation.judges import Judges, Viewed
from vlfm.evaluation.generation.trained_features import TrainedFeatures
from vlfm.evaluation.intervals import mean_interval

COMPONENTS = 32  # directions of the features that the Fréchet distance is measured in: 128 clips are enough
NEIGHBOURS = 3  # of precision and recall
SHARES = (*ATTRIBUTES, "all", "caption_accuracy", "precision", "recall", "copies")
NUMBERS = ("frechet", "diversity", "nearest", "sharpness")
COLUMNS = (*(f"{name}{part}" for name in SHARES for part in ("", "_low", "_high")), *NUMBERS)

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Reference:
    """What generated clips are compared with.

    Attributes:
        true: true clips, of every caption that is to be judged.
        training: those that the model was trained on, their `Viewed.pixels`: it may have copied them. None where there
            are fewer than two.
        captions: distinct ones, of which a clip's own is to be told from the others.
        embeddings: of these captions.
    """

    true: Viewed
    training: TrainingClips | None
    captions: tuple[str, ...]
    embeddings: CaptionEmbeddings


def score(judges: Judges, clips: Viewed, reference: Reference, seed: int = 0) -> Scores:
    """The row of a set of clips, `COLUMNS`; None where a number means nothing.

    - digit, colour, direction, speed, all: shares of the clips that show what their caption says, where captions tell
      of moving digits.
    - caption_accuracy: share of the clips whose own caption is nearest to them of all the reference's; with features
      that were trained on captions. Compare it with that of true clips.
    - precision, recall: share of the clips that lie among the true ones, and of the true ones that lie among them
      (of the same captions), in features; with more than 3 of each. Fewer clips lie further apart and cover more: only
      sets of equally many compare.
    - copies: share of the clips less than half as far from a training clip as two training clips of one caption are
      from each other; where a caption has two. New clips are not; see `Copies.copied`.
    - frechet: squared distance to the true clips of the same captions in 32 directions of the features; with more than
      32 of each. Only sets of equally many compare.
    - diversity: mean distance of two clips of one caption in features, relative to that of the true ones; where
      captions have two clips of both. 0 where all seeds give one clip.
    - nearest: median distance to the nearest training clip, relative to that of two training clips of one caption.
    - sharpness: relative to that of true clips of the same captions: below 1 is blurred.

    Shares have a 95 % interval, `_low` and `_high`, of a bootstrap over captions: clips of one caption are no
    independent evidence. Every caption weighs the same.

    Args:
        clips: what `judges` saw, of captions of the reference.
        seed: of the bootstrap.

    Raises:
        VLFMError: if a caption is not one of the reference's.
    """
    if unknown := set(clips.captions) - (set(reference.captions) & set(reference.true.captions)):
        raise VLFMError(
            f"no true clip of the caption {min(unknown)!r} to compare with; give the reference true clips of every "
            "caption that is judged"
        )
    true = reference.true.of_captions(clips.captions)
    shares: dict[str, tuple[np.ndarray, Sequence[str]]] = {}
    if clips.right.shape[1]:
        right = dict(zip(ATTRIBUTES, clips.right.T, strict=True)) | {"all": clips.right.all(1)}
        shares |= {name: (values, clips.captions) for name, values in right.items()}
    if isinstance(judges.features, TrainedFeatures):
        places = {caption: place for place, caption in enumerate(reference.captions)}
        own = np.array([places[caption] for caption in clips.captions])
        found = judges.features.caption_accuracy(clips.features, reference.embeddings, own)
        shares["caption_accuracy"] = found, clips.captions
    fewest = min(len(clips), len(true)) if clips.features.shape[1] else 0
    if fewest > NEIGHBOURS:
        precision, recall = precision_recall(true.features, clips.features, NEIGHBOURS)
        shares |= {"precision": (precision, clips.captions), "recall": (recall, true.captions)}
    close = None if reference.training is None else reference.training.compare(clips.pixels)
    if close is not None and close.typical > 0:
        shares["copies"] = close.copied, clips.captions
    distance = frechet(true.features, clips.features, COMPONENTS) if fewest > COMPONENTS else None
    row: Scores = dict.fromkeys(COLUMNS)
    for name, (values, captions) in shares.items():
        interval = mean_interval(list(_by_caption(values, captions).values()), seed)
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(_number, interval), strict=True))
    row["frechet"] = distance
    row["diversity"] = _ratio(_diversities(clips), _diversities(true)) if fewest else None
    if close is not None and close.typical > 0:
        row["nearest"] = float(np.median(close.distance) / close.typical)
    row["sharpness"] = _ratio(_by_caption(clips.sharpness, clips.captions), _by_caption(true.sharpness, true.captions))
    return row


def _by_caption(values: np.ndarray, captions: Sequence[str]) -> dict[str, float]:
    """Caption → the mean of its clips' numbers."""
    members: dict[str, list[float]] = {}
    for caption, value in zip(captions, values, strict=True):
        members.setdefault(caption, []).append(float(value))
    return {caption: float(np.mean(some)) for caption, some in members.items()}


def _diversities(clips: Viewed) -> dict[str, float]:
    return dict(zip(dict.fromkeys(clips.captions), diversity(clips.features, clips.captions), strict=True))


def _ratio(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float | None:
    """The sum over captions divided by theirs, over those that have a number in both."""
    both = [caption for caption in ours if np.isfinite(ours[caption]) and np.isfinite(theirs[caption])]
    total = sum(theirs[caption] for caption in both)
    return float(sum(ours[caption] for caption in both) / total) if total > 0 else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
