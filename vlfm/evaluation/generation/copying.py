"""Whether generated clips are copies of training clips.

A distance shows a copy only beside the usual distance of clips that are not copies. Each space finds different copies:

- `pixel_vectors`: the same picture at the same place. Two clips of one thing at two places are far apart, so this
  finds what was stored and played back, and nothing else.
- `pixel_vectors(..., aligned=True)`: the same picture at any place. Every clip is moved as a whole until what stands
  out of its background lies in the middle, so two clips of one caption differ in how they look and in how they move,
  not in where they are. It finds a training clip that was only moved. Where the whole picture moves (a pan), it
  sees no more than the first.
- features (`VideoFeatures.extract`): what is alike to a network, whatever the pixels. Features that were learnt from
  captions put clips of one caption close together: near here need not be a copy.

The first two are in grey levels: the distance of two vectors is the RMS difference of the coarse frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from vlfm.errors import VLFMError
from vlfm.evaluation.generation.features import Clips, prepared

CHUNK = 512  # rows of a matrix of distances at once
MEMBERS = 8  # clips of a caption that are compared with each other, at most


def pixel_vectors(clips: Clips, frames: int = 6, side: int = 16, aligned: bool = False) -> np.ndarray:
    """Clips uint8 (B, N, H, W, 3), or B of any lengths and sizes → (B, D) float32, coarse frames as vectors.

    Euclidean distances between them are RMS differences in grey levels, 0 … 255.

    Args:
        frames: of a clip, evenly sampled; clips that are compared should last equally long.
        side: pixels a side of the coarse frames; blur and noise of a decoder average out in them.
        aligned: move each clip so that the middle of what stands out from its median colour, taken over all its frames,
            is the middle of the picture. What leaves on one side comes in on the other.
    """
    found = []
    # Placed on a grid four times finer than what is compared: half a coarse pixel off is a large difference.
    fine = 4 * side if aligned else side
    for start in range(0, len(clips), CHUNK):
        pictures = prepared(clips[start : start + CHUNK], frames, (fine, fine)).float()
        if aligned:
            pictures = functional.avg_pool2d(_centred(pictures).flatten(0, 1), 4).unflatten(0, pictures.shape[:2])
        found.append((pictures.flatten(1) / pictures[0].numel() ** 0.5).numpy())
    return np.concatenate(found) if found else np.empty((0, frames * 3 * side**2), np.float32)


def _centred(pictures: torch.Tensor) -> torch.Tensor:
    """(B, N, 3, S, S), each clip rolled by whole pixels."""
    side = pictures.shape[-1]
    background = pictures.movedim(2, 1).flatten(2).median(-1).values[:, None, :, None, None]
    away = (pictures - background).abs().amax(2)
    # A quarter of what stands out most: noise has no place.
    weights = (away - away.amax((1, 2, 3), keepdim=True) / 4).clamp_min(0).sum(1)
    places = torch.arange(side, dtype=torch.float32)
    total = weights.sum((1, 2)).clamp_min(1e-6)
    down = (weights.sum(2) * places).sum(1) / total
    right = (weights.sum(1) * places).sum(1) / total
    shifts = ((side - 1) / 2 - torch.stack([down, right], 1)).round().int()
    shifts[weights.sum((1, 2)) <= 0] = 0
    moved = [torch.roll(clip, tuple(shift.tolist()), (-2, -1)) for clip, shift in zip(pictures, shifts, strict=True)]
    return torch.stack(moved)


def nearest_training(generated: np.ndarray, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training vector of each generated one: distances (B,) float64 and indices (B,).

    Memory is bounded by a block of 512 × 512 distances and the vectors of its rows.

    Args:
        generated, training: (B, D) and (B', D).

    Raises:
        VLFMError: if there is no training vector, or they are of another length.
    """
    if len(training) == 0 or generated.shape[1:] != training.shape[1:]:
        raise VLFMError(
            f"no nearest training clip: vectors are {generated.shape} generated and {training.shape} training; make "
            "both in the same way, from at least one clip"
        )
    best = np.full(len(generated), np.inf)
    index = np.zeros(len(generated), dtype=int)
    for first in range(0, len(training), CHUNK):
        theirs = torch.from_numpy(np.asarray(training[first : first + CHUNK], dtype=np.float64))
        norms = theirs.square().sum(1)
        for start in range(0, len(generated), CHUNK):
            rows = slice(start, start + CHUNK)
            ours = torch.from_numpy(np.asarray(generated[rows], dtype=np.float64))
            # |a|² is left out, and added below: it is the same for all.
            squares = norms - 2 * ours @ theirs.T
            least, where = squares.min(1)
            nearer = least.numpy() < best[rows]
            best[rows] = np.where(nearer, least.numpy(), best[rows])
            index[rows] = np.where(nearer, where.numpy() + first, index[rows])
    # From the vectors themselves: the difference of squares above has lost the digits of small distances.
    for start in range(0, len(generated), CHUNK):
        rows = slice(start, start + CHUNK)
        difference = np.asarray(generated[rows], dtype=np.float64) - training[index[rows]]
        best[rows] = np.linalg.norm(difference, axis=1)
    return best, index


@dataclass(frozen=True)
class Copies:
    """How near generated clips come to training clips, in one space.

    Attributes:
        distance: (B,) float64, to the nearest training clip.
        index: (B,), which one that is.
        typical: median distance of two different training clips of one caption; NaN where no caption has two.
    """

    distance: np.ndarray
    index: np.ndarray
    typical: float

    @property
    def copied(self) -> np.ndarray:
        """(B,) float64, 1 for generated clips less than half as far from a training clip as `typical`.

        Half: the nearest of thousands is nearer than one taken at random, without being a copy. On 4,096 moving
        digits, aligned, it is 1 for none of 256 new clips in new handwriting, and for 98 % of the training clips after
        a decoder of 8-pixel patches, moved beforehand or not. All 0 where there is no typical distance.
        """
        return (self.distance < self.typical / 2).astype(np.float64)


@dataclass(frozen=True)
class TrainingClips:
    """Training clips in one space, and what is usual between them: made once, compared with many sets of clips.

    Attributes:
        vectors: (B', D).
        typical: as in `Copies`.
    """

    vectors: np.ndarray
    typical: float

    @classmethod
    def of(cls, vectors: np.ndarray, captions: Sequence, seed: int = 0) -> "TrainingClips":
        """Measure what is usual.

        Args:
            captions: of the clips, B' of them; anything that is equal where captions are.
            seed: chooses 8 clips of a caption that has more.

        Raises:
            VLFMError: with fewer than two clips, or not one caption for each.
        """
        if len(captions) != len(vectors) or len(vectors) < 2:
            raise VLFMError(
                f"copies: {len(vectors)} training clips with {len(captions)} captions; give at least 2, and a caption "
                "each"
            )
        return cls(vectors, _typical(vectors, captions, seed))

    def compare(self, generated: np.ndarray) -> Copies:
        """How near generated clips, (B, D) in the same space, come to these."""
        return Copies(*nearest_training(generated, self.vectors), self.typical)


def _typical(training: np.ndarray, captions: Sequence, seed: int) -> float:
    """The median distance of two training clips of one caption, over the pairs of at most 8 clips a caption."""
    from scipy.spatial.distance import pdist

    members: dict = {}
    for row, caption in enumerate(captions):
        members.setdefault(caption, []).append(row)
    random = np.random.default_rng(seed)
    distances = [
        pdist(np.asarray(training[np.sort(random.permutation(rows)[:MEMBERS])], dtype=np.float64))
        for rows in members.values()
        if len(rows) > 1
    ]
    return float(np.median(np.concatenate(distances))) if distances else float("nan")
