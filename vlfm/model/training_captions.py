"""The captions a model was trained on, kept in its folder: what a new caption is compared with."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path

TRAINING_CAPTIONS = "training_captions.safetensors"


@dataclass(frozen=True)
class TrainingCaptions:
    """Distinct captions with their embeddings.

    Attributes:
        captions: n of them.
        embeddings: (n, D) float16, the mean over each one's tokens.
        complete: these are all there were; else a sample.
    """

    captions: tuple[str, ...]
    embeddings: torch.Tensor
    complete: bool

    def save(self, folder: Path) -> None:
        """Write `training_captions.safetensors`, atomically; the same captions give the same bytes."""
        about = {"captions": self.captions, "complete": self.complete}
        with atomic_path(folder / TRAINING_CAPTIONS) as temporary:
            # One entry: safetensors writes several in any order.
            save_file({"embeddings": self.embeddings.contiguous()}, temporary, metadata={"about": json.dumps(about)})

    @classmethod
    def read(cls, folder: Path, channels: int) -> Self | None:
        """What `save` wrote; None where there is no such file, as in the folders of older versions.

        Args:
            channels: D of the model's caption encoder.

        Raises:
            VLFMError: if the file holds something else.
        """
        path = folder / TRAINING_CAPTIONS
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                embeddings, about = file.get_tensor("embeddings"), json.loads(file.metadata()["about"])
            found = cls(tuple(about["captions"]), embeddings, bool(about["complete"]))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise _unusable(path, error) from error
        expected = (len(found.captions), channels)
        if not found.captions or embeddings.shape != expected:
            raise _unusable(path, f"embeddings of shape {tuple(embeddings.shape)}, not {expected}")
        return found


def _unusable(path: Path, why: object) -> VLFMError:
    return VLFMError(
        f"{path} holds no training captions of this model ({why}); copy it again from where it was trained, or remove "
        "it: the model then does not say when a caption is unlike those of its training"
    )
