"""A trained model's folder that nobody trained: a small network with random weights."""

import torch

from vlfm.captions.pooling import mean_embedding
from vlfm.model.flow_model import FlowModel
from vlfm.model.training_captions import TrainingCaptions
from vlfm.model.transformer import VLFMTransformer


def model_of(config, channels, positions, caption_channels, empty=None, head="coefficients"):
    torch.manual_seed(0)
    network = VLFMTransformer(
        head=head, channels=channels, positions=positions, order=config.flow.order, durations=config.clips.durations,
        layers=1, heads=2, head_dim=16, caption_channels=caption_channels, gate=1.0,
    )  # fmt: skip
    torch.nn.init.normal_(network.backbone.proj_out.weight, std=0.2)
    return FlowModel.of(config, network.eval().requires_grad_(False), empty)


def captions_of(encoder, captions, complete=True):
    """As training keeps them; the shards hold tokens in float16."""
    embedded = encoder.encode(captions)
    return TrainingCaptions(tuple(captions), mean_embedding(embedded.tokens.half(), embedded.mask).half(), complete)
