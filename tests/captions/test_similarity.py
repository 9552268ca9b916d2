"""Which captions are like those of a training, to the real MiniLM."""

import csv
import itertools
from pathlib import Path

import pytest
import torch

from tests.data.pipeline import captions_of
from vlfm import clips
from vlfm.captions.encoders import CaptionEncoder, minilm_folder
from vlfm.captions.pooling import mean_embedding
from vlfm.captions.similarity import Likeness

with (Path(clips.__path__[0]) / "demo.csv").open(newline="") as rows:
    DEMO = list(dict.fromkeys(row["caption"] for row in csv.DictReader(rows)))
TEMPLATE = [
    f"a {colour} {digit} moves {direction} {speed}"
    for digit, colour, direction, speed in itertools.product(
        "zero one two three four five six seven eight nine".split(),
        "red green blue yellow".split(),
        "left right up down".split(),
        "slowly quickly".split(),
    )
]
HELD_OUT = [TEMPLATE[number] for number in torch.randperm(320, generator=torch.Generator().manual_seed(0))[:64]]
REWORDED_DEMO = [
    "View from above of a long white vehicle's roof with a brown hatch and small squares sliding down",
    "A man in a dark suit and a red striped tie moves to the right and leaves the frame",
    "a cyclist wearing a helmet and a black shirt waits, holding a pole next to an orange sign",
    "A dark car behind railings drives right past a bicycle wheel",
    "a parked bicycle with grey bags leaning on a wall",
    "man with a red bow tie sitting in a car while a bare tree goes by",
    "a man in a bow tie opens his eyes and mouth wide in shock",
    "a big grey rabbit stands up and throws its arms over its head",
    "a fat rabbit yawns with its eyes shut and arms spread",
    "legs in black trousers walk past the parked bicycle",
]
REWORDED_TEMPLATE = [
    "a red 2 goes to the right slowly",
    "slow red two moving right",
    "the digit two in red, moving right",
    "a yellow nine goes up fast",
    "blue number five, downwards, slow",
    "Number 3 in green, climbing quickly",
]
UNLIKE = [
    "a man rides a bike",
    "a dog jumps over a wall",
    "waves break on a pebble beach",
    "a plate of spaghetti",
    "an astronaut floats in space",
    "a woman plays the violin",
    "fireworks over a harbour",
    "people dance at a wedding",
    "a horse gallops in a field",
    "stock prices rose on Tuesday",
    "a train leaves the station",
    "asdf qwer zxcv",
    "",
]


@pytest.fixture(scope="module", params=[6, 3, 1], ids=lambda layers: f"{layers} layers")
def encoder(request):
    """MiniLM, and its first layers alone: they give any two captions a cosine of 0.7, as many encoders do."""
    encoder = CaptionEncoder(minilm_folder(), 32)
    encoder.model.encoder.layer = encoder.model.encoder.layer[: request.param]
    return encoder


@pytest.fixture(scope="module")
def likeness(encoder):
    return Likeness.of(encoder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "training, alike",
    [
        (DEMO, DEMO + REWORDED_DEMO),
        ([caption for caption in TEMPLATE if caption not in HELD_OUT], HELD_OUT + REWORDED_TEMPLATE),
        (DEMO[:1], REWORDED_DEMO[:1]),
    ],
    ids=["demo", "template", "one caption"],
)
def test_rewordings_are_alike_and_other_things_are_not(encoder, likeness, training, alike):
    known = captions_of(encoder, training).embeddings
    nearest = {}
    for caption in alike + UNLIKE:
        embedded = encoder.encode([caption])
        similarity = likeness.similarity(mean_embedding(embedded.tokens, embedded.mask), known)
        nearest[caption] = similarity.max().item()
    assert {caption for caption in alike if nearest[caption] < likeness.threshold} == set()
    assert {caption for caption in UNLIKE if nearest[caption] >= likeness.threshold} == set()


def test_a_caption_is_like_itself_whatever_its_padding(encoder, likeness):
    embedded = encoder.encode(DEMO[:4])
    length = int(embedded.mask.sum(1).max())
    padded = mean_embedding(embedded.tokens, embedded.mask)
    cut = mean_embedding(embedded.tokens[:, :length], embedded.mask[:, :length])
    assert likeness.similarity(padded, cut).diagonal() == pytest.approx(1, abs=1e-5)
    assert 0.1 < likeness.threshold < 0.9
