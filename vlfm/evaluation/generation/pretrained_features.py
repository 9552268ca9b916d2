"""Features of a pretrained video network, VideoMAE and its like, from a transformers folder."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlfm.errors import VLFMError
from vlfm.evaluation.generation.features import Clips, prepared
from vlfm.storage.files import read_json
from vlfm.storage.fingerprints import fingerprint
from vlfm.weights import fingerprint_folder, load_network, locate

PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
# Of ImageNet, in [0, 1]: what video networks are trained with unless their folder says otherwise.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INPUTS = ("pixel_values_videos", "pixel_values")


class PretrainedFeatures:
    """A video network as `VideoFeatures`: the mean over tokens of its last hidden state.

    As many frames as it was made for are sampled evenly over a clip, and the whole picture is resized to its size:
    processors cut off what is not square, but a generated clip is to be judged on all it shows. Mean and deviation of
    the colours are those of the folder's processor, read without torchvision.

    Args:
        model: a folder with safetensors weights, or a hub id; see `vlfm.weights.locate`.
        device: where the network runs.
        key: what named the model, for messages.
        batch_size: clips at once.

    Raises:
        VLFMError: if there is no video network, or no safetensors weights that fill it.
    """

    def __init__(self, model: Path | str, device: torch.device | str = "cpu", key: str = "model", batch_size: int = 8):
        folder = locate(str(model), {""}, key)
        self._network = _load(folder, key).to(device)
        config = self._network.config
        self._frames = _setting(config, folder, "num_frames", "frames_per_clip")
        size = _setting(config, folder, "image_size", "crop_size")
        self._size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self._input = next(name for name in INPUTS if name in inspect.signature(self._network.forward).parameters)
        self._batch_size = batch_size
        colours = _colours(folder)
        self._mean, self._deviation = (torch.tensor(value, device=device).view(3, 1, 1) for value in colours)
        self.dims: int = config.hidden_size
        self.fingerprint: str = fingerprint({"files": fingerprint_folder(folder, {""}), "frames": self._frames})

    @torch.no_grad()
    def extract(self, clips: Clips) -> np.ndarray:
        """Clips uint8 (B, N, H, W, 3), or B of any lengths and sizes → (B, D) float64."""
        found = []
        for start in range(0, len(clips), self._batch_size):
            pictures = prepared(clips[start : start + self._batch_size], self._frames, self._size)
            values = (pictures.to(self._mean.device).float() / 255 - self._mean) / self._deviation
            tokens = self._network(**{self._input: values}).last_hidden_state
            found.append(tokens.mean(1).double().cpu().numpy())
        return np.concatenate(found) if found else np.empty((0, self.dims))


def _load(folder: Path, key: str) -> torch.nn.Module:
    from transformers import MODEL_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise VLFMError(f"{folder / 'config.json'} is of no model that transformers knows: {error}") from error
    kind = MODEL_MAPPING.get(type(config), None)
    if kind is None or not any(name in inspect.signature(kind.forward).parameters for name in INPUTS):
        raise VLFMError(
            f"{key} is {folder}, which holds a {config.model_type} model and no video network; it takes VideoMAE, "
            "TimeSformer, ViViT, V-JEPA 2 and others that transformers' AutoModel knows"
        )
    return load_network(kind, folder, "", torch.float32, unused="pooler")


def _setting(config: Any, folder: Path, *names: str) -> Any:
    """The first of these settings that a network's configuration has."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return value
    raise VLFMError(f"{folder / 'config.json'} has no {' or '.join(names)}: it holds no video network")


def _colours(folder: Path) -> tuple[Any, Any]:
    """Mean and deviation of each colour in [0, 1], as the folder's processor has them."""
    found = next((folder / name for name in PROCESSORS if (folder / name).is_file()), None)
    settings = read_json(found) if found else {}
    if settings.get("do_normalize", True) is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean, deviation = settings.get("image_mean") or MEAN, settings.get("image_std") or DEVIATION
    if len(mean) != 3 or len(deviation) != 3:
        raise VLFMError(f"{found}: image_mean and image_std must have three numbers each")
    return tuple(map(float, mean)), tuple(map(float, deviation))
