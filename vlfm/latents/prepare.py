"""The decoder stage: what inversion needs, trained or found, and described in `decoder.json`."""

from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.latents.fit import fit_decoder


def prepare_decoder(config: configs.Config, shards: list[Path], output: Path, device: torch.device) -> None:
    """Make the visual decoder ready in the folder `output`.

    `output/decoder.json`, written last, holds at least `fingerprint` (what the latents depend on), `name` and
    `shape`, (C, h, w) of a latent.
    """
    fit_decoder(config, shards, output, device)
