"""L0, as any decoder bounds it."""

import pytest
import torch

from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.stable_diffusion import StableDiffusionDecoder

CPU = torch.device("cpu")
CAPTIONS = ["a cat", "a dog", "a cat"]


class Scaled(VisualDecoder):
    """u times a number for each channel: quotients lie between the smallest and the largest."""

    device = CPU
    factors = torch.tensor([0.5, 1.0, 3.0])[:, None, None]

    def to(self, device):
        return self

    def latent_shape(self, height, width):
        return 3, height, width

    def encode(self, frames):
        return frames / self.factors

    def decode(self, latents):
        return latents * self.factors

    def invert(self, frames, captions=None):
        return self.encode(frames)

    def generate(self, latents, captions=None):
        return self.decode(latents)


def test_l0_is_bounded_from_below():
    latents = torch.randn(4, 3, 4, 4)
    largest, median = Scaled().lipschitz(latents)
    assert 0.5 < median <= largest <= 3
    assert Scaled().lipschitz(latents) == (largest, median)
    # The way from one latent to the next is among the directions.
    along = torch.zeros(2, 3, 4, 4)
    along[1, 2] = 1
    assert Scaled().lipschitz(along, directions=0) == pytest.approx((3, 3))
    # Two frames that are the same have no direction between them.
    assert Scaled().lipschitz(latents[:1].repeat(2, 1, 1, 1))[0] <= 3


def test_l0_of_a_loaded_decoder(stable_diffusion, frames):
    decoder = StableDiffusionDecoder.from_folder(stable_diffusion, steps=2, captioned=True)
    largest, median = decoder.lipschitz(decoder.invert(frames, CAPTIONS), CAPTIONS, directions=2)
    assert 0 < median <= largest < float("inf")
