"""The state of a training run in one safetensors file: tensors as tensors, everything else as JSON beside them."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlfm.artifacts import atomic_path
from vlfm.errors import VLFMError


def save_state(path: Path | str, state: Any) -> None:
    """Write a tree of dicts, lists, tensors and JSON values, atomically."""
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(state, tensors), allow_nan=True)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"tree": tree})


def load_state(path: Path | str) -> Any:
    """Read what `save_state` wrote, tensors on the CPU.

    Raises:
        VLFMError: if the file is damaged or was written by something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _decode(json.loads(file.metadata()["tree"]), file)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise VLFMError(f"{path} is no checkpoint, or a damaged one ({error}); remove it") from error


def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, since an optimizer's state has integer keys, which JSON objects cannot have.
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_encode(item, tensors) for item in value]}
    return {"value": value}


def _decode(node: dict[str, Any], file: Any) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "dict":
        return {key: _decode(item, file) for key, item in content}
    if kind == "list":
        return [_decode(item, file) for item in content]
    return content
