"""What every layer of the network is told through its normalisation (adaLN): the time and, if asked, the caption."""

import torch
from diffusers.models.embeddings import PixArtAlphaCombinedTimestepSizeEmbeddings, TimestepEmbedding
from torch import nn

from vlfm.captions.pooling import mean_embedding

# A channel that hardly varies over the captions is divided by at least this share of the channels' RMS spread.
LEAST_SPREAD = 0.01
SAME = 1e-3  # captions whose spread is a smaller share of their size are all the same, but for rounding


class TimeAndCaption(nn.Module):
    """The embedding of a time plus that of a caption, in place of the time's alone (as DiT adds its class).

    Cross-attention reads a caption word by word; here its mean token reaches every layer and position at once. Mean
    tokens of captions in one language are nearly the same, so they are told apart first: each channel in standard
    deviations over the training's captions, the whole scaled to unit root mean square.

    Args:
        time: of the backbone, taken over.
        caption_channels: D, width of the caption embeddings. width: of the network.
    """

    def __init__(self, time: PixArtAlphaCombinedTimestepSizeEmbeddings, caption_channels: int, width: int):
        super().__init__()
        self.time_proj, self.timestep_embedder = time.time_proj, time.timestep_embedder
        self.caption_embedder = TimestepEmbedding(caption_channels, width)
        self.register_buffer("mean", torch.zeros(caption_channels))
        self.register_buffer("spread", torch.ones(caption_channels))

    def set_statistics(self, mean: torch.Tensor, mean_square: torch.Tensor) -> None:
        """Take E[p] and E[p²] of the mean tokens p of the training's captions, (D,) each."""
        spread = (mean_square - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        typical = spread.square().mean().sqrt()
        if typical < SAME * mean_square.mean().sqrt():
            self.spread.fill_(torch.inf)  # there is nothing to tell: no caption is apart from another
        else:
            self.spread.copy_(spread.clamp_min(LEAST_SPREAD * typical))

    def forward(
        self,
        timestep: torch.Tensor,
        tokens: torch.Tensor,
        mask: torch.Tensor,
        batch_size: int | None = None,
        hidden_dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """(B, width) from timesteps (B,) and caption embeddings (B, L, D) with their mask (B, L)."""
        time = self.timestep_embedder(self.time_proj(timestep).to(hidden_dtype))
        apart = (mean_embedding(tokens, mask) - self.mean) / self.spread
        unit = apart * (apart.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return time + self.caption_embedder(unit.to(hidden_dtype))
