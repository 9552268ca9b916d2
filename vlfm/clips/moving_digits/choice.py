"""Which moving digits are shown, and what of them is held out for the test.

A fifth of the 320 combinations of digit, colour, direction and speed is held out, and a fifth of the handwriting of
each digit. Training clips show training combinations in training handwriting; test clips show held-out combinations in
held-out handwriting, so that nothing of them was seen but the words. (Who wrote a digit is not known: the same hands
write on both sides.) Everything is a function of the seed.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlfm.clips.moving_digits.drawing import handwriting
from vlfm.clips.moving_digits.language import ATTRIBUTES, WORDS, MovingDigit, all_digits, caption_of
from vlfm.config import Digits
from vlfm.errors import VLFMError
from vlfm.splits import SPLITS, TEST, TRAIN

HELD_OUT = 5  # one of as many, of combinations, handwriting and captions
# Every choice has a stream of random numbers of its own: none changes another.
COMBINATIONS, HANDWRITING, PAIRS, ORDER, TAKES = range(5)

Caption = tuple[MovingDigit, ...]


@dataclass(frozen=True)
class Take:
    """One clip to be drawn.

    Attributes:
        digits: what it shows.
        images: the place of each digit's handwriting in `handwriting()`.
        key: the seed of the random numbers that decide where the digits begin.
    """

    digits: Caption
    images: tuple[int, ...]
    key: tuple[int, ...]

    @property
    def caption(self) -> str:
        """The words for it."""
        return caption_of(self.digits)


def choose_takes(settings: Digits, seed: int) -> dict[str, list[Take]]:
    """The clips of each split, every caption once before any comes again, in an order that says nothing of them.

    So the first clips stand for all: whoever looks at a few of them sees all words. More clips per caption leave those
    there are as they are.

    Raises:
        VLFMError: if there are fewer captions than are asked for, or a word is in no training caption.
    """
    captions = choose_captions(settings, seed)
    counts = {TRAIN: settings.clips, TEST: settings.test_clips}
    return {split: list(_takes(captions[split], counts[split], split, seed)) for split in SPLITS}


def _takes(captions: Sequence[Caption], count: int, split: str, seed: int) -> Iterator[Take]:
    hands = choose_handwriting(seed)[split]
    for take, (place, digits) in itertools.product(range(count), enumerate(captions)):
        key = (seed, TAKES, SPLITS.index(split), place, take)
        random = np.random.default_rng([*key, 0])
        yield Take(digits, tuple(int(random.choice(hands[each.digit])) for each in digits), (*key, 1))


def choose_captions(settings: Digits, seed: int) -> dict[str, list[Caption]]:
    """The captions of each split, shuffled: one digit, of all combinations of the split; or `settings.captions` pairs
    of different colours, both of the split's combinations.

    Raises:
        VLFMError: as `choose_takes` does.
    """
    combinations = choose_combinations(seed)
    if settings.count == 1:
        captions = {split: [(each,) for each in combinations[split]] for split in SPLITS}
    else:
        tested = settings.captions // HELD_OUT
        wanted = {TRAIN: settings.captions - tested, TEST: tested}
        captions = {split: _pairs(combinations[split], wanted[split], split, seed) for split in SPLITS}
    for split, some in captions.items():
        np.random.default_rng([seed, ORDER, SPLITS.index(split)]).shuffle(some)
    _check_words(captions[TRAIN])
    return captions


def _pairs(combinations: Sequence[MovingDigit], count: int, split: str, seed: int) -> list[Caption]:
    pairs = [pair for pair in itertools.permutations(combinations, 2) if pair[0].colour != pair[1].colour]
    if count > len(pairs):
        raise VLFMError(
            f"clips.digits.captions asks for {count} pairs of digits for split {split}, and there are {len(pairs)}; "
            "lower it"
        )
    chosen = np.random.default_rng([seed, PAIRS, SPLITS.index(split)]).choice(len(pairs), count, replace=False)
    return [pairs[place] for place in chosen]


def _check_words(captions: Sequence[Caption]) -> None:
    for attribute in ATTRIBUTES:
        known = {getattr(digit, attribute) for digit in all_digits()}
        met = {getattr(digit, attribute) for caption in captions for digit in caption}
        if missing := known - met:
            words = ", ".join(sorted(WORDS[each] if attribute == "digit" else str(each) for each in missing))
            raise VLFMError(f"no training caption of the moving digits says {words}; raise clips.digits.captions")


def choose_combinations(seed: int) -> dict[str, list[MovingDigit]]:
    """The 256 combinations to train on, and the 64 held out.

    They are drawn until any two words that go together do so in training in at least half of their combinations.
    """
    everything = all_digits()
    random = np.random.default_rng([seed, COMBINATIONS])
    while True:
        order = [everything[place] for place in random.permutation(len(everything))]
        held_out = len(everything) // HELD_OUT
        chosen = {TEST: order[:held_out], TRAIN: order[held_out:]}
        total, trained = _pairs_of_words(everything), _pairs_of_words(chosen[TRAIN])
        if all(2 * trained[pair] >= count for pair, count in total.items()):
            return chosen


def _pairs_of_words(digits: Sequence[MovingDigit]) -> Counter:
    return Counter(
        ((one, getattr(digit, one)), (other, getattr(digit, other)))
        for digit in digits
        for one, other in itertools.combinations(ATTRIBUTES, 2)
    )


def choose_handwriting(seed: int) -> dict[str, list[np.ndarray]]:
    """Split → for each digit from 0 to 9 the places of its handwriting in `handwriting()`."""
    _, labels = handwriting()
    random = np.random.default_rng([seed, HANDWRITING])
    chosen: dict[str, list[np.ndarray]] = {TRAIN: [], TEST: []}
    for digit in range(len(WORDS)):
        order = random.permutation(np.flatnonzero(labels == digit))
        held_out = len(order) // HELD_OUT
        chosen[TEST].append(order[:held_out])
        chosen[TRAIN].append(order[held_out:])
    return chosen
