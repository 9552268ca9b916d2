"""Pieces of work in progress: safetensors in a folder beside the store, from which a killed job goes on."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from vlfm.errors import VLFMError
from vlfm.storage.files import full_disk, write_bytes
from vlfm.words import plural


def save(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a piece, atomically."""
    # Not through safetensors' own writer, which does not say that a disk is full as other writers do.
    write_bytes(file, safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def load(file: Path, *names: str) -> dict[str, torch.Tensor]:
    """Read a piece.

    Raises:
        VLFMError: if it is damaged or lacks a tensor of these names.
    """
    # Not mapped into memory: some network file systems keep a removed file, and its folder, while it is.
    try:
        tensors = safetensors.torch.load(file.read_bytes())
        if missing := set(names) - tensors.keys():
            raise ValueError(f"it has no {', '.join(sorted(missing))}")
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise VLFMError(f"{file} is damaged ({error}); remove it and run the rule again") from error
    return tensors


@contextlib.contextmanager
def disk_may_be_full(partial: Path) -> Iterator[None]:
    """Say of a full disk, as a `VLFMError`, where it is and what is kept in the folder `partial`."""
    try:
        yield
    except OSError as error:
        kept = len([path for path in partial.glob("[!.]*.safetensors") if path.stem != "captions"])
        finished = f"{plural(kept, 'finished piece')}, kept in {partial.name}"
        if told := full_disk(error, partial.parent, finished):
            raise told from error
        raise
