"""The noise that a video is made from."""

import hashlib

import torch


def clip_noise(clip_id: str, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The noise z a clip is rendered from; depends on the clip and the seed, not on its neighbours."""
    generator = torch.Generator().manual_seed((int(clip_id, 16) ^ seed) % 2**63)
    return torch.randn(shape, generator=generator)


def caption_noise(caption: str, number: int, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The noise z of a caption's video with this number; depends on these alone, not on what is made beside it."""
    key = hashlib.sha256(f"{seed}\n{number}\n{caption}".encode()).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(key[:8], "big") % 2**63))
