"""Classifier-free guidance (Ho and Salimans, 2022): the network asked with the caption and without it."""

import torch

from vlfm.errors import VLFMError
from vlfm.model.transformer import VLFMTransformer

Captions = tuple[torch.Tensor, torch.Tensor]


class Guided:
    """The network with its captions bound: (ψ, t in seconds) → what its head predicts.

    Args:
        tokens, mask: of the captions, (B, L, D) and (B, L).
        duration: of the clips, seconds.
        guidance: w of `F(∅) + w (F(caption) − F(∅))`; 1 asks once, with the caption.
        empty_caption: tokens (L, D) and mask (L,) of ∅.

    Attributes:
        evaluations: of the network so far; a guided one counts twice.

    Raises:
        VLFMError: for guidance without an empty caption.
    """

    def __init__(
        self,
        network: VLFMTransformer,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        duration: float,
        guidance: float,
        empty_caption: Captions | None,
    ):
        self.network, self.guidance, self.evaluations = network, guidance, 0
        self.tokens, self.mask = tokens.to(network.device), mask.to(network.device)
        self.duration = torch.full((len(tokens),), duration, device=network.device)
        if guidance != 1:
            if empty_caption is None:
                raise VLFMError(
                    f"guidance {guidance:g} needs a model that was trained with empty captions among the others: set "
                    "training.caption_dropout, 0.1 for example, and train again; or leave guidance at 1"
                )
            empty_tokens, empty_mask = (value.to(network.device) for value in empty_caption)
            # Both in one batch; the guided half last.
            self.tokens = torch.cat([empty_tokens.expand_as(self.tokens), self.tokens])
            self.mask = torch.cat([empty_mask.expand_as(self.mask), self.mask])
            self.duration = self.duration.repeat(2)

    def __call__(self, psi: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        share = (t / self.duration[: len(t)]).to(psi.dtype)
        if self.guidance == 1:
            self.evaluations += 1
            return self.network(psi, share, self.tokens, self.mask, self.duration)
        self.evaluations += 2
        both = self.network(psi.repeat(2, 1, 1, 1), share.repeat(2), self.tokens, self.mask, self.duration)
        empty, captioned = both.chunk(2)
        return empty + self.guidance * (captioned - empty)
