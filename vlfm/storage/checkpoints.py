"""The state of a training run in one safetensors file: tensors as tensors, everything else as JSON beside them."""

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path


def copied(state: Any, device: torch.device | str | None = None) -> Any:
    """A tree of dicts, lists and tuples with a copy of every tensor in it, default on the tensor's own device."""
    if isinstance(state, torch.Tensor):
        return state.detach().to(device or state.device, copy=True)
    if isinstance(state, dict):
        return {key: copied(item, device) for key, item in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(copied(item, device) for item in state)
    return state


def save_state(path: Path | str, state: Any) -> None:
    """Write a tree of dicts, lists, tensors and JSON values, atomically.

    Args:
        state: its tensors on the CPU, each with memory of its own, as `copied` gives them.

    Raises:
        VLFMError: if it cannot be written, the disk being full for example; what was there before is untouched.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(state, tensors), allow_nan=True)
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"tree": tree})
    except (OSError, SafetensorError) as error:
        raise VLFMError(
            f"cannot write {path} ({error}); free space or lift the limit, then run the rule again: it goes on from "
            "what was saved before"
        ) from error


def load_state(path: Path | str) -> Any:
    """Read what `save_state` wrote, tensors on the CPU.

    Raises:
        VLFMError: if the file is damaged, be it one bit, or was written by something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return _decode(json.loads(file.metadata()["tree"]), file)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise VLFMError(f"{path} is no checkpoint, or a damaged one ({error}); remove it") from error


class Checkpoints:
    """The checkpoints of one run in a folder, `step-00001200.safetensors`.

    Args:
        folder: theirs alone. keep: how many are kept, the newest.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder, self._keep = folder, keep

    def save(self, step: int, state: Any) -> None:
        """Write a checkpoint, as `save_state` does, then remove those that are too many.

        Raises:
            VLFMError: if it cannot be written; all older ones are still there.
        """
        for stale in self.folder.glob(".step-*.tmp.safetensors"):  # of a process that was killed while writing
            stale.unlink(missing_ok=True)
        save_state(self.path(step), state)
        # Later ones are damaged: training did not go on from them, and will overwrite them.
        until = [path for path in self.paths() if path <= self.path(step)]
        for path in until[: -self._keep]:
            path.unlink(missing_ok=True)

    def newest(self) -> Any | None:
        """The state in the newest checkpoint that can be read, or None; warns of those that cannot."""
        for path in reversed(self.paths()):
            try:
                return load_state(path)
            except VLFMError as error:
                print(f"warning: {error}; trying the one before", flush=True)
        return None

    def paths(self) -> list[Path]:
        """All of them, the oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.folder / f"step-{step:08d}.safetensors"


def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = str(len(tensors))
        tensors[name] = value.contiguous()
        return {"tensor": name, "crc32": _checksum(tensors[name])}
    if isinstance(value, dict):
        # Pairs, since an optimizer's state has integer keys, which JSON objects cannot have.
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_encode(item, tensors) for item in value]}
    return {"value": value}


def _decode(node: dict[str, Any], file: Any) -> Any:
    if "tensor" in node:
        tensor = file.get_tensor(node["tensor"])
        if _checksum(tensor) != node["crc32"]:
            raise ValueError(f"the checksum of tensor {node['tensor']} is wrong")
        return tensor
    ((kind, content),) = node.items()
    if kind == "dict":
        return {key: _decode(item, file) for key, item in content}
    if kind == "list":
        return [_decode(item, file) for item in content]
    return content


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy())
