"""Clips and decoders whose measurements are known beforehand."""

import torch

from vlfm.theory.groups import ClipGroup

DURATION = 0.5
COUNT = 12
SHAPE = (2, 3, 3)


def uneven_times():
    """Frames as a 25 fps source gives them for 24: not quite evenly spaced, the last before T."""
    return torch.tensor([0.0417, 0.075, 0.1084, 0.1751, 0.2085, 0.2419, 0.2752, 0.342, 0.3753, 0.4087, 0.4421, 0.4754])


def group(latents, times=None, autoencoder=None):
    clips = len(latents)
    return ClipGroup(
        clip_ids=[f"{index:016x}" for index in range(clips)],
        times=uneven_times().double() if times is None else times,
        latents=latents,
        autoencoder=latents if autoencoder is None else autoencoder,
        tokens=torch.zeros(clips, 3, 6),
        mask=torch.ones(clips, 3).bool(),
        captions=[f"caption {index}" for index in range(clips)],
    )


def cubic(clips=3, seed=0):
    """Latents that are cubic in time: order 4 knows them."""
    factors = torch.randn(clips, *SHAPE, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    powers = torch.stack([(4 * uneven_times().double() - 1) ** k for k in range(4)])
    return torch.einsum("bchwk,kn->bnchw", factors, powers)


def noise(clips=3, seed=0):
    return torch.randn(clips, COUNT, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear:
    """A decoder `u ↦ M u`, pictures flat; the autoencoder is the identity times 3."""

    def __init__(self, matrix):
        self.matrix = matrix

    def generate(self, latents, captions=None):
        return latents.flatten(1) @ self.matrix.T

    def decode(self, latents):
        return 3 * latents


def rotation(size=18):
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(4)))[0]
