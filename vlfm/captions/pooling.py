"""One vector for a caption of many tokens."""

import torch


def mean_embedding(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of each caption's token embeddings, (…, L, D) with their mask (…, L) → (…, D) float32."""
    weights = mask.float()[..., None]
    return (tokens.float() * weights).sum(-2) / weights.sum(-2)
