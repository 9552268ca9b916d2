"""Pieces of work in progress: safetensors in a folder beside the store, from which a killed job goes on."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from vlfm.errors import VLFMError
from vlfm.storage.files import write_bytes
from vlfm.words import plural

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        if error.errno not in FULL:
            raise
        kept = len([path for path in partial.glob("[0-9a-f]*.safetensors") if path.stem != "captions"])
        raise VLFMError(
            f"{partial.parent} cannot be written ({error.strerror}); free space there and run the rule again, which "
            f"goes on after {plural(kept, 'finished clip')}, kept in {partial.name}"
        ) from error
