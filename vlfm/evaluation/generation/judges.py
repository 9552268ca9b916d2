"""Who looks at clips, once, and what they saw; frames are not needed after that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from vlfm.errors import VLFMError
from vlfm.evaluation.generation.copying import pixel_vectors
from vlfm.evaluation.generation.digits import DigitJudge
from vlfm.evaluation.generation.features import Clips, VideoFeatures
from vlfm.evaluation.generation.sharpness import sharpness
from vlfm.words import plural


@dataclass(frozen=True)
class Viewed:
    """What judges saw of B clips.

    Attributes:
        captions: B of them, what the clips were to show.
        features: (B, D) float64; (B, 0) where there are none.
        pixels: (B, P) float32, in grey levels: coarse frames about the middle of what they show (`pixel_vectors`).
        sharpness: (B,) float64.
        right: (B, 4) bool, which of `ATTRIBUTES` are as the caption says; no columns, (B, 0), where no judge reads.
    """

    captions: tuple[str, ...]
    features: np.ndarray
    pixels: np.ndarray
    sharpness: np.ndarray
    right: np.ndarray

    def __len__(self) -> int:
        return len(self.captions)

    @staticmethod
    def joined(parts: Iterable["Viewed"]) -> "Viewed":
        """Several sets as one, in order; at least one."""
        parts = list(parts)
        arrays = [field.name for field in fields(Viewed) if field.name != "captions"]
        return Viewed(
            tuple(caption for part in parts for caption in part.captions),
            **{name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays},
        )

    def rows(self, chosen: Sequence[int] | np.ndarray) -> "Viewed":
        """Some of the clips, by their places or by a mask (B,)."""
        places = np.arange(len(self))[np.asarray(chosen)]
        return Viewed(
            tuple(self.captions[place] for place in places),
            self.features[places],
            self.pixels[places],
            self.sharpness[places],
            self.right[places],
        )

    def of_captions(self, captions: Iterable[str]) -> "Viewed":
        """Those of its clips that have one of these captions."""
        wanted = set(captions)
        return self.rows(np.array([caption in wanted for caption in self.captions], dtype=bool))


@dataclass(frozen=True)
class Judges:
    """Who looks at clips.

    Attributes:
        features: what turns clips into vectors; trained ones also say which caption a clip shows. None where captions
            do not differ, and nothing could be learnt.
        digits: reads moving digits; None where captions tell of anything else.
        fps: frames a second of the clips.
    """

    features: VideoFeatures | None
    digits: DigitJudge | None
    fps: float

    @property
    def fingerprint(self) -> str:
        """Identity of what they say: numbers of other judges do not compare."""
        return "-".join("none" if judge is None else judge.fingerprint for judge in (self.features, self.digits))

    def view(self, clips: Clips, captions: Sequence[str]) -> Viewed:
        """Look at clips.

        Args:
            clips: uint8 (B, N, H, W, 3), or B of any lengths and sizes (moving digits: all of one).
            captions: B of them, what each is to show.

        Raises:
            VLFMError: if there is not one caption a clip, or one that the judge of moving digits does not read.
        """
        if len(clips) != len(captions) or not len(clips):
            raise VLFMError(f"{plural(len(clips), 'clip')} to be judged with {plural(len(captions), 'caption')}")
        none = np.zeros((len(clips), 0), dtype=bool)
        return Viewed(
            tuple(captions),
            none.astype(np.float64) if self.features is None else self.features.extract(clips),
            pixel_vectors(clips, aligned=True),
            sharpness(clips),
            none if self.digits is None else self.digits.scores(clips, captions, self.fps),
        )
