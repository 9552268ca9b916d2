"""LPIPS and FVD, where their weights are: measures that are networks, which nothing else here needs.

Neither package nor weights come with the default install. Weights are read from a folder, as safetensors only:

- `lpips-alex.safetensors`, the state of `lpips.LPIPS(net="alex")`, written once where that package is
  (`CONVERT` is the command);
- `videomae/`, a `transformers` folder of a VideoMAE, for example `VIDEOMAE`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from vlfm.errors import VLFMError
from vlfm.evaluation.generation.distances import frechet_distance
from vlfm.evaluation.generation.pretrained_features import PretrainedFeatures
from vlfm.frames import to_uint8

LPIPS_FILE, VIDEOMAE_FOLDER = "lpips-alex.safetensors", "videomae"
VIDEOMAE = "MCG-NJU/videomae-base-finetuned-kinetics"
CONVERT = (
    'python -c "import lpips, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in '
    "lpips.LPIPS(net='alex').state_dict().items() if not k.startswith('lins')}, 'lpips-alex.safetensors')\""
)

# AlexNet's convolutions: name in the file, stride, padding, and whether a 3×3 maximum of stride 2 comes before it.
_ALEXNET = (
    ("net.slice1.0", 4, 2, False),
    ("net.slice2.3", 1, 2, True),
    ("net.slice3.6", 1, 1, True),
    ("net.slice4.8", 1, 1, False),
    ("net.slice5.10", 1, 1, False),
)


def missing(folder: Path | str) -> dict[str, str]:
    """Which of `lpips` and `fvd` cannot be computed with the weights in `folder`, and what to do about it."""
    folder = Path(folder)
    reasons = {}
    if not (folder / LPIPS_FILE).is_file():
        reasons["lpips"] = f"{folder / LPIPS_FILE} is missing; where the package lpips is installed, run {CONVERT}"
    if not (folder / VIDEOMAE_FOLDER / "config.json").is_file():
        place = folder / VIDEOMAE_FOLDER
        fetch = f'hf download {VIDEOMAE} --include "*.json" "*.safetensors" --local-dir {place}'
        reasons["fvd"] = f"{place} is missing; fetch it with `{fetch}`"
    return reasons


def load_lpips(
    folder: Path | str, device: torch.device | str = "cpu"
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """LPIPS (Zhang et al., 2018; AlexNet, version 0.1): frames (K, 3, H, W) in [−1, 1] twice → (K,), 0 is alike.

    Raises:
        VLFMError: if the weights are missing or are others, with how to get them; when measuring, for pictures
            below 31 pixels a side, in which AlexNet has no room.
    """
    folder = Path(folder)
    if reason := missing(folder).get("lpips"):
        raise VLFMError(f"LPIPS: {reason}")
    weights = {name: value.float().to(device) for name, value in load_file(folder / LPIPS_FILE).items()}
    needed = [f"{name}.{kind}" for name, *_ in _ALEXNET for kind in ("weight", "bias")]
    needed += [f"lin{index}.model.1.weight" for index in range(len(_ALEXNET))]
    if absent := [name for name in needed if name not in weights]:
        raise VLFMError(f"{folder / LPIPS_FILE} holds no {absent[0]}: it is another network's; run {CONVERT}")
    shift = torch.tensor([-0.030, -0.088, -0.188], device=device)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], device=device)[:, None, None]

    def features(frames: torch.Tensor) -> list[torch.Tensor]:
        values, taps = (frames.float().to(device) - shift) / scale, []
        for name, stride, padding, pooled in _ALEXNET:
            if pooled:
                values = functional.max_pool2d(values, 3, 2)
            values = functional.conv2d(values, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding)
            values = functional.relu(values)
            taps.append(values / (values.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return taps

    @torch.no_grad()
    def lpips(frames: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        if min(truth.shape[-2:]) < 31:
            raise VLFMError(f"LPIPS needs pictures of 31 pixels a side or more; they are {tuple(truth.shape[-2:])}")
        total = torch.zeros(len(truth), device=device)
        for index, (ours, theirs) in enumerate(zip(features(frames), features(truth), strict=True)):
            difference = functional.conv2d((ours - theirs).square(), weights[f"lin{index}.model.1.weight"])
            total += difference.mean((1, 2, 3))
        return total.cpu()

    return lpips


def load_fvd(folder: Path | str, device: torch.device | str = "cpu") -> Callable[[torch.Tensor, torch.Tensor], float]:
    """FVD on VideoMAE's features (Ge et al., 2024: less blind to motion than I3D's): clips twice → one number.

    The clips are (B, K, 3, H, W) in [−1, 1], of any length and size; each is sampled to the network's frames and
    size. The distance is between two Gaussians: it wants hundreds of clips, and compares only between sets of the
    same number. It is no number to set beside FVDs of I3D.

    Raises:
        VLFMError: if the weights are missing, with how to get them.
    """
    folder = Path(folder)
    if reason := missing(folder).get("fvd"):
        raise VLFMError(f"FVD: {reason}")
    network = PretrainedFeatures(folder / VIDEOMAE_FOLDER, device, key="FVD")

    def features(clips: torch.Tensor) -> np.ndarray:
        return network.extract([to_uint8(clip) for clip in clips])

    return lambda clips, truth: frechet_distance(features(clips), features(truth))
