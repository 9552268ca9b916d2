"""Small networks that were fitted to a run, as folders: weights as safetensors, and what they are as JSON."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path, read_json, write_json

WEIGHTS = "model.safetensors"


def save_fitted(folder: Path | str, kind: str, network: torch.nn.Module, description: Mapping[str, Any]) -> None:
    """Write a network's weights and, last, `KIND.json`, each atomically.

    Args:
        kind: what it is; names the JSON file.
        description: JSON values, with the `fingerprint` of what it was fitted to, which both files carry.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(Path(folder) / WEIGHTS) as temporary:
        save_file(weights, temporary, metadata={"fingerprint": description["fingerprint"]})
    write_json(Path(folder) / f"{kind}.json", dict(description))


def read_fitted(folder: Path | str, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The weights and the description that `save_fitted` wrote.

    Raises:
        VLFMError: if a file is missing or damaged, or the two are of different fits.
    """
    path, description = Path(folder) / WEIGHTS, read_json(Path(folder) / f"{kind}.json")
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}
            found = (file.metadata() or {}).get("fingerprint")
    except FileNotFoundError:
        raise VLFMError(f"{path} is missing: remove {folder} and fit it again") from None
    except (SafetensorError, OSError) as error:
        raise VLFMError(f"{path} is damaged ({error}); remove {folder} and fit it again") from error
    if not isinstance(description, dict) or found != description.get("fingerprint"):
        raise VLFMError(f"{folder}: {WEIGHTS} and {kind}.json are of different fits; remove it and fit it again")
    return weights, description


def fill(network: torch.nn.Module, weights: Mapping[str, torch.Tensor], folder: Path | str) -> None:
    """Load weights into a network that must have exactly these, for evaluation.

    Raises:
        VLFMError: if they are another network's.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise VLFMError(f"{folder} holds another network's weights ({error}); remove it and fit it again") from error
    network.eval().requires_grad_(False)
