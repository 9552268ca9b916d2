"""One row of numbers for a set of clips: what is perfect, what is chance, what is a copy."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from tests.evaluation.generation.conftest import FPS
from vlfm.captions.encoders import CaptionEmbeddings
from vlfm.clips.moving_digits.choice import choose_takes
from vlfm.clips.moving_digits.language import ATTRIBUTES, COLOURS, DIRECTIONS, SPEEDS, parse_caption
from vlfm.clips.moving_digits.videos import draw_take
from vlfm.config import Digits
from vlfm.decoders.patch_autoencoder import PatchAutoencoder
from vlfm.errors import VLFMError
from vlfm.evaluation.generation import digits
from vlfm.evaluation.generation.copying import TrainingClips
from vlfm.evaluation.generation.digits import DigitJudge
from vlfm.evaluation.generation.judges import Judges, Viewed
from vlfm.evaluation.generation.scoring import COLUMNS, Reference, score
from vlfm.evaluation.generation.trained_features import FeatureSettings, TrainedFeatures
from vlfm.frames import to_tensor, to_uint8

SETTINGS = FeatureSettings(frames=4, width=8, dims=16, embedding=16, steps=60, batch_size=16)


def embedded(captions):
    """Captions as four words of a vocabulary each, one-hot."""
    words = [
        [digit, 10 + list(COLOURS).index(colour), 14 + list(DIRECTIONS).index(way), 18 + list(SPEEDS).index(speed)]
        for digit, colour, way, speed in (vars(parse_caption(caption)[0]).values() for caption in captions)
    ]
    return CaptionEmbeddings(
        functional.one_hot(torch.tensor(words), 20).float(), torch.ones(len(captions), 4, dtype=torch.bool)
    )


def drawn(split, captions):
    """Two clips of each of the first captions of a split, in handwriting of that split, and their captions."""
    takes = choose_takes(Digits(count=1, captions=320, clips=2, wander=0.06, test_clips=2), 0)[split]
    half = len(takes) // 2
    some = takes[:captions] + takes[half : half + captions]
    return np.stack([draw_take(take, np.arange(8) / FPS, 32, 0.06) for take in some]), [take.caption for take in some]


@pytest.fixture(scope="module")
def training():
    return drawn("train", 100)


@pytest.fixture(scope="module")
def judges(training):
    clips, captions = training
    distinct = list(dict.fromkeys(captions))
    own = np.array([distinct.index(caption) for caption in captions])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "STEPS", 200)
        patch.setattr(digits, "BATCH", 48)
        reader = DigitJudge.fit(clips, captions, seed=0)
    return Judges(TrainedFeatures.fit(clips, embedded(distinct), own, 0, SETTINGS), reader, FPS)


@pytest.fixture(scope="module")
def held_out():
    return drawn("test", 40)


@pytest.fixture(scope="module")
def reference(judges, training, held_out):
    seen = judges.view(*training)
    captions = tuple(dict.fromkeys(held_out[1]))
    return Reference(judges.view(*held_out), TrainingClips.of(seen.pixels, seen.captions), captions, embedded(captions))


def test_true_clips_are_perfect(judges, reference):
    row = score(judges, reference.true, reference)
    assert tuple(row) == COLUMNS and all(value is not None for value in row.values())
    assert all(row[name] == 1 for name in ("colour", "direction", "speed", "precision", "recall"))
    assert row["all"] == row["digit"] > 0.6
    assert row["digit_low"] <= row["digit"] <= row["digit_high"]
    assert row["frechet"] == pytest.approx(0, abs=1e-9)
    assert row["diversity"] == row["sharpness"] == 1
    assert row["copies"] < 0.1 and row["nearest"] > 0.6


def test_the_wrong_captions_are_chance(judges, reference, held_out):
    clips, captions = held_out
    shuffled = [captions[place] for place in np.random.default_rng(0).permutation(len(captions))]
    right, wrong = score(judges, reference.true, reference), score(judges, judges.view(clips, shuffled), reference)
    chance = {"digit": 0.1, "colour": 0.25, "direction": 0.25, "speed": 0.5}
    assert all(abs(wrong[name] - chance[name]) < 0.2 for name in ATTRIBUTES) and wrong["all"] < 0.1
    assert wrong["caption_accuracy"] < 0.15 and right["caption_accuracy"] > wrong["caption_accuracy"]
    # What does not ask for captions is as before.
    assert wrong["precision"] == wrong["recall"] == 1 and wrong["copies"] == pytest.approx(right["copies"], abs=0.1)


def test_copies_are_found_through_a_decoder_and_average_clips_are_blurred(judges, training, held_out, reference):
    clips, captions = training
    distinct = tuple(dict.fromkeys(captions))
    beside = Reference(judges.view(clips, captions), reference.training, distinct, embedded(distinct))
    frames = to_tensor(clips).flatten(0, 1)
    autoencoder = PatchAutoencoder.fit(frames, patch=4, channels=12)
    passed = to_uint8(autoencoder.decode(autoencoder.encode(frames)).clamp(-1, 1)).reshape(clips.shape)
    row = score(judges, judges.view(passed, captions), beside)
    assert row["copies"] > 0.9 and row["nearest"] < 0.5
    halves = clips.reshape(2, 100, *clips.shape[1:]).astype(float).mean(0).round().astype(np.uint8)
    mean = score(judges, judges.view(halves, captions[:100]), beside)
    assert mean["sharpness"] < 0.97 and mean["diversity"] is None, "one clip a caption does not differ from itself"


def test_one_clip_again_and_again_is_told(judges, reference, held_out):
    clips, captions = held_out
    same = score(judges, judges.view(np.repeat(clips[:1], 80, 0), captions), reference)
    assert same["diversity"] == 0 and same["recall"] < 0.2 and same["frechet"] > 1e-3


def test_every_caption_weighs_the_same(judges, reference, held_out):
    clips, captions = held_out
    wrong = captions[:40].index(next(caption for caption in captions if caption != captions[0]))
    told = [captions[0]] * 9 + [captions[wrong]]
    row = score(judges, judges.view(np.repeat(clips[:1], 10, 0), told), reference)
    same = [a == b for a, b in zip(*(vars(parse_caption(told[end])[0]).values() for end in (0, 9)), strict=True)]
    assert [row[name] for name in ("colour", "direction", "speed")] == [(1 + each) / 2 for each in same[1:]]


def test_what_means_nothing_is_none(judges, reference, held_out):
    clips, captions = held_out
    few = score(judges, judges.view(clips[:2], captions[:2]), reference)
    assert {name for name in COLUMNS if few[name] is None} >= {"precision", "recall", "frechet", "diversity"}
    blind = Judges(None, None, FPS)
    alone = Reference(blind.view(clips, captions), None, reference.captions, reference.embeddings)
    row = score(blind, blind.view(clips, captions), alone)
    assert {name for name in COLUMNS if row[name] is not None} == {"sharpness"}
    assert blind.fingerprint == "none-none" != judges.fingerprint


def test_sets_of_clips_are_joined_and_chosen(judges, held_out):
    clips, captions = held_out
    whole = judges.view(clips[:6], captions[:6])
    joined = Viewed.joined([judges.view(clips[:2], captions[:2]), judges.view(clips[2:6], captions[2:6])])
    assert joined.captions == whole.captions and np.allclose(joined.features, whole.features)
    assert whole.rows([4, 1]).captions == (captions[4], captions[1])
    assert whole.of_captions(captions[:2]).captions == tuple(c for c in captions[:6] if c in captions[:2])
    assert len(whole.rows(np.zeros(6, dtype=bool))) == 0


def test_what_cannot_be_compared_is_refused(judges, reference, training, held_out):
    clips, captions = held_out
    with pytest.raises(VLFMError, match="2 clips to be judged with 1 caption"):
        judges.view(clips[:2], captions[:1])
    with pytest.raises(VLFMError, match=f"no true clip of the caption '{training[1][0]}' to compare with"):
        score(judges, judges.view(clips[:1], training[1][:1]), reference)
