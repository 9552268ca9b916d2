"""How alike two captions are to a caption encoder, and from where on they are alike.

A caption's embedding is the mean over its tokens, and likeness the cosine of two of them. Encoders differ in what that
means: some give any two captions a cosine of 0.8. So what all captions have in common is taken off, and what counts as
alike is measured, both on `WORDINGS`: the threshold lies midway between the similarity of two wordings of one thing and
that of a thing to the nearest other one, medians over them.

Measured against the demo's captions and 256 like "a red two moves right slowly", with rewordings of each, 64
combinations held out and 19 captions of other things, on all seven layers of MiniLM, which differ as encoders do: no
caption was on the wrong side of the threshold. With nothing taken off, up to half of the rewordings were. On its last
layer the threshold is 0.45; rewordings lie at 0.59 or above, other things at 0.32 or below. A threshold from the
training captions, the 5 % quantile of each one's similarity to its nearest other, says how much they are of one kind
and not what a rewording is: it is 0.95 for those combinations, above all of their rewordings, and 0.02 for captions of
16 different things.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch.nn import functional

from vlfm.captions.encoders import CaptionEncoder
from vlfm.captions.pooling import mean_embedding

# Each line is one thing in two wordings, as far from the other lines as from what a model may have been trained on.
WORDINGS = (
    ("a dog runs along a beach", "a dog is running on the sand by the sea"),
    ("a woman pours tea into a cup", "tea is poured into a cup by a woman"),
    ("a boat sails across a lake", "a sailing boat moves over the lake"),
    ("snow falls on a mountain village", "a village in the mountains while it is snowing"),
    ("a child blows out candles on a cake", "candles on a birthday cake are blown out by a kid"),
    ("two men play tennis", "a tennis match between two men"),
    ("traffic moves through a city at night", "cars drive through the city in the dark"),
    ("a chef chops onions in a kitchen", "in a kitchen, a cook cuts up onions"),
    ("a bird flies over a forest", "above the forest a bird is flying"),
    ("an old man reads a newspaper", "a newspaper is read by an elderly man"),
    ("a rocket takes off", "the launch of a rocket"),
    ("a girl plays the piano", "a young girl at the piano, playing"),
    ("leaves move in the wind", "wind blows through the leaves"),
    ("a crowd cheers at a concert", "people in the audience of a concert are cheering"),
    ("a horse jumps over a fence", "a fence is jumped by a horse"),
    ("a blue circle grows", "a circle, blue, becomes larger"),
)


@dataclass(frozen=True)
class Likeness:
    """What likeness is to one encoder.

    Attributes:
        common: (D,) float32, what the embeddings of all captions share.
        threshold: captions are alike from this similarity on.
    """

    common: torch.Tensor
    threshold: float

    @classmethod
    def of(cls, encoder: CaptionEncoder) -> Self:
        """Measure it, on 32 short captions."""
        embedded = encoder.encode([wording for pair in WORDINGS for wording in pair])
        embeddings = mean_embedding(embedded.tokens, embedded.mask).cpu()
        unmeasured = cls(embeddings.mean(0), 0.0)
        similarity = unmeasured.similarity(embeddings[::2], embeddings)
        alike = similarity[:, 1::2].diagonal()
        unlike = similarity[:, ::2].clone().fill_diagonal_(-1).amax(1)
        return cls(unmeasured.common, (alike.median() + unlike.median()).item() / 2)

    def similarity(self, some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Mean embeddings (n, D) and (m, D) → (n, m) similarities in [−1, 1]; 1 is the same caption."""
        return self._directions(some) @ self._directions(others).T

    def _directions(self, embeddings: torch.Tensor) -> torch.Tensor:
        return functional.normalize(embeddings.float() - self.common, dim=-1)
