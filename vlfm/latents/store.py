"""The latent store: one zarr group per shard, one chunk per clip, all chunks of an array in one file."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from vlfm.errors import VLFMError

VERSION = 1


@dataclass(frozen=True)
class ClipLatents:
    """What the store holds of one clip.

    Attributes:
        clip_id: its name everywhere.
        latents: (N, C, h, w) float32.
        times: (N,) float64, seconds of clip time.
        tokens: (L, D) float32 caption embedding.
        mask: (L,) bool.
        caption: the text.
        round_trip: PSNR in dB of the frames after inversion and regeneration; NaN if not measured.
    """

    clip_id: str
    latents: np.ndarray
    times: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    caption: str
    round_trip: float


def write_store(
    path: Path | str, clips: list[ClipLatents], dtype: str, fingerprint: str, about: dict[str, Any]
) -> None:
    """Write a shard's latents, whole, under a temporary name that becomes `path` at the end.

    Args:
        dtype: of the stored latents and embeddings, float16 or float32.
        fingerprint: identity of what made them.
        about: readable settings kept beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    group = zarr.open_group(temporary, mode="w", zarr_format=3)
    arrays = {
        "latents": np.stack([clip.latents for clip in clips]).astype(dtype),
        "times": np.stack([clip.times for clip in clips]),
        "tokens": np.stack([clip.tokens for clip in clips]).astype(dtype),
        "mask": np.stack([clip.mask for clip in clips]),
        "round_trip": np.array([clip.round_trip for clip in clips], dtype=np.float32),
    }
    for name, values in arrays.items():
        # Latents hardly compress (3–8 %); reading a clip should cost one seek and no decompression.
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(1, *values.shape[1:]),
            shards=values.shape,
            compressors=None,
        )
        array[...] = values
    group.attrs.update(
        {
            "version": VERSION,
            "fingerprint": fingerprint,
            "about": about,
            "clip_ids": [clip.clip_id for clip in clips],
            "captions": [clip.caption for clip in clips],
        }
    )
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


class LatentStore:
    """Reads a shard of latents; one clip costs one chunk, not the shard.

    Raises:
        VLFMError: if there is no store at `path`, or it is damaged or of another version.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self._group = zarr.open_group(self.path, mode="r")
            self._latents = self._group["latents"]
            attributes = self._group.attrs.asdict()
            version = attributes["version"]
            self.fingerprint: str = attributes["fingerprint"]
            self.about: dict[str, Any] = attributes["about"]
            self.clip_ids: list[str] = attributes["clip_ids"]
            self.captions: list[str] = attributes["captions"]
        except (OSError, KeyError, ValueError) as error:
            raise VLFMError(
                f"{path} is no latent store, or a damaged one ({error}); remove it and run `vlfm invert` again"
            ) from error
        if version != VERSION:
            raise VLFMError(f"{path} has store version {version}, this code reads {VERSION}")
        self._position = {clip_id: index for index, clip_id in enumerate(self.clip_ids)}

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __iter__(self) -> Iterator[ClipLatents]:
        return (self[clip_id] for clip_id in self.clip_ids)

    def __getitem__(self, clip_id: str) -> ClipLatents:
        try:
            index = self._position[clip_id]
        except KeyError:
            raise VLFMError(f"clip {clip_id} is not in {self.path}") from None
        return ClipLatents(
            clip_id=clip_id,
            latents=np.asarray(self._latents[index]).astype(np.float32),
            times=np.asarray(self._group["times"][index]),
            tokens=np.asarray(self._group["tokens"][index]).astype(np.float32),
            mask=np.asarray(self._group["mask"][index]),
            caption=self.captions[index],
            round_trip=float(self._group["round_trip"][index]),
        )
