"""The language of moving handwritten digits: what a caption says, and back.

After the captioned bouncing MNIST of Sync-DRAW (Mittal et al., 2017) and TGANs-C (Pan et al., 2017). A caption names
one digit, "a red two moves right slowly", or two, joined by "and"; every word of it can be measured in the picture.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {"red": (230, 70, 60), "green": (80, 200, 90), "blue": (80, 120, 240), "yellow": (240, 210, 70)}
DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}  # to the right, downwards
SPEEDS = {"slowly": 0.12, "quickly": 0.35}  # of the picture's side, a second
ATTRIBUTES = ("digit", "colour", "direction", "speed")

_PHRASE = re.compile(
    rf"a ({'|'.join(COLOURS)}) ({'|'.join(WORDS)}) moves ({'|'.join(DIRECTIONS)}) ({'|'.join(SPEEDS)})"
)


@dataclass(frozen=True)
class MovingDigit:
    """One digit and what it does; each field is a key of the table of its name."""

    digit: int
    colour: str
    direction: str
    speed: str

    def __str__(self) -> str:
        return f"a {self.colour} {WORDS[self.digit]} moves {self.direction} {self.speed}"


def all_digits() -> list[MovingDigit]:
    """Every combination, 320 of them, in a fixed order."""
    return [MovingDigit(*each) for each in itertools.product(range(len(WORDS)), COLOURS, DIRECTIONS, SPEEDS)]


def caption_of(digits: Sequence[MovingDigit]) -> str:
    """The caption of a clip that shows these digits."""
    return " and ".join(map(str, digits))


def parse_caption(caption: str) -> tuple[MovingDigit, ...]:
    """The digits that a caption tells of.

    Raises:
        ValueError: if it is not of this language.
    """
    digits = []
    for phrase in caption.split(" and "):
        match = _PHRASE.fullmatch(phrase)
        if match is None:
            raise ValueError(f"{caption!r} does not tell of moving digits, as in {str(all_digits()[0])!r}")
        colour, word, direction, speed = match.groups()
        digits.append(MovingDigit(WORDS.index(word), colour, direction, speed))
    return tuple(digits)
