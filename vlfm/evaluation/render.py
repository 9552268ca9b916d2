"""Captions and a trained model → latents of a clip at any times."""

from pathlib import Path

import numpy as np
import torch

from vlfm.artifacts import read_json
from vlfm.errors import VLFMError
from vlfm.flow.legendre import LegendreBasis
from vlfm.flow.path import VideoLatentPath
from vlfm.flow.schedules import make_schedule
from vlfm.flow.solvers import render
from vlfm.model.transformer import VLFMTransformer


class FlowModel:
    """A trained network with the path it was trained on.

    Args:
        folder: what `vlfm train` wrote: `transformer/` and `flow.json`.
    """

    def __init__(self, folder: Path, device: torch.device):
        if not (folder / "flow.json").exists():
            raise VLFMError(f"there is no trained model in {folder}; run `snakemake --cores all train`")
        flow = read_json(folder / "flow.json")
        self.transformer = VLFMTransformer.from_pretrained(folder / "transformer", use_safetensors=True)
        self.transformer.to(device).eval().requires_grad_(False)
        self.path = VideoLatentPath(
            LegendreBasis(flow["order"], flow["duration"]),
            make_schedule(
                flow["schedule"],
                flow["num_frames"],
                flow["duration"],
                flow["sigma_min"],
                flow["renoise"],
                flow["alpha"],
            ),
        )
        self.device = device

    @torch.no_grad()
    def latents(
        self, tokens: torch.Tensor, mask: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, steps: int = 1
    ) -> torch.Tensor:
        """Latents u_t, (B, K, C, h, w), in the units of the visual decoder.

        Args:
            tokens: (B, L, D). mask: (B, L). noise: z, (B, C, h, w).
            times: (K,) or (B, K), seconds in (0, T].
            steps: network evaluations; see `vlfm.flow.solvers.exponential`.
        """
        tokens, mask = tokens.to(self.device), mask.to(self.device)
        values = render(
            lambda psi, t: self.transformer(psi, t.to(psi.dtype), tokens, mask),
            noise.to(self.device),
            self.path,
            times.to(self.device),
            steps,
        )
        return values.float() * self.transformer.latent_scale


def rate_times(fps: float, duration: float) -> np.ndarray:
    """The instants `j / fps`, j = 1, 2, … up to T: what a video at that rate shows."""
    return np.arange(1, int(duration * fps + 1e-6) + 1) / fps


def nearest_frames(instants: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Indices of the frames whose true times lie nearest to the instants, each frame once, in order."""
    nearest = np.abs(times[None, :] - instants[:, None]).argmin(1)
    return np.unique(nearest)


def clip_noise(clip_id: str, seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The noise z a clip is rendered from; depends on the clip and the seed, not on its neighbours."""
    generator = torch.Generator().manual_seed((int(clip_id, 16) ^ seed) % 2**63)
    return torch.randn(shape, generator=generator)
