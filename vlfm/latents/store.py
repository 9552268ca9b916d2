"""The latent store: one zarr group per shard, one chunk per clip, all chunks of an array in one file."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from vlfm.errors import VLFMError

VERSION = 2
ARRAYS = ("latents", "times", "tokens", "mask", "round_trip", "rounding", "null_text")


@dataclass(frozen=True)
class ClipLatents:
    """What the store holds of one clip.

    Attributes:
        clip_id: its name everywhere.
        latents: (n, C, h, w) float32: of N frames, or of fewer where the source has fewer a second.
        times: (n,) float64, seconds of clip time.
        tokens: (L, D) float32 caption embedding.
        mask: (L,) bool.
        caption: the text.
        round_trip: PSNR in dB of the frames after inversion and regeneration; NaN if not measured.
        duration: T, seconds.
        rounding: RMS error that storing the latents in half precision made, relative to their RMS.
        null_text: (K, L, D) float32, the empty embeddings of a guided inversion, one a step walked; None without
            guidance. All clips of a store have it or none has; stored in float16.
    """

    clip_id: str
    latents: np.ndarray
    times: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    caption: str
    round_trip: float
    duration: float
    rounding: float = 0.0
    null_text: np.ndarray | None = None


def write_store(
    path: Path | str,
    clips: Sequence[ClipLatents],
    dtype: str,
    fingerprint: str,
    about: dict[str, Any],
    *,
    fps: float,
    height: int,
    width: int,
) -> None:
    """Write a shard's latents, whole, under a temporary name that becomes `path` at the end.

    Args:
        clips: at least one; all of one duration, and of one shape but for the number of frames.
        dtype: of the stored latents and embeddings, float16 or float32.
        fingerprint: identity of what made them.
        about: readable settings kept beside it.
        fps, height, width: of the clips' frames.

    Raises:
        OSError: the disk is full, for example; nothing is left behind, and what was at `path` is still there.
    """
    if len({clip.duration for clip in clips}) != 1:
        raise ValueError("the clips of a shard share one duration")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _write_group(zarr.open_group(temporary, mode="w", zarr_format=3), clips, dtype).attrs.update(
            {
                "version": VERSION,
                "fingerprint": fingerprint,
                "about": about,
                "duration": clips[0].duration,
                "fps": fps,
                "height": height,
                "width": width,
                "clip_ids": [clip.clip_id for clip in clips],
                "captions": [clip.caption for clip in clips],
            }
        )
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_group(group: zarr.Group, clips: Sequence[ClipLatents], dtype: str) -> zarr.Group:
    most = max(len(clip.times) for clip in clips)
    arrays = {
        "latents": np.stack([_padded(clip.latents.astype(dtype, copy=False), most, 0) for clip in clips]),
        "times": np.stack([_padded(clip.times, most, np.nan) for clip in clips]),
        "tokens": np.stack([clip.tokens.astype(dtype, copy=False) for clip in clips]),
        "mask": np.stack([clip.mask for clip in clips]),
        "round_trip": np.array([clip.round_trip for clip in clips], dtype=np.float32),
        "rounding": np.array([clip.rounding for clip in clips], dtype=np.float32),
    }
    if clips[0].null_text is not None:
        arrays["null_text"] = np.stack([clip.null_text.astype(np.float16, copy=False) for clip in clips])
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
    return group


def _padded(values: np.ndarray, length: int, filler: float) -> np.ndarray:
    """Rows of `filler` after those of a clip with fewer frames: an array of a store has one shape."""
    if len(values) == length:
        return values
    return np.concatenate([values, np.full((length - len(values), *values.shape[1:]), filler, values.dtype)])


class LatentStore:
    """Reads a shard of latents; one clip costs one chunk, not the shard.

    Attributes:
        fingerprint, about: what made it.
        duration, fps, height, width: of its clips: T in seconds, frames a second, pixels.
        num_frames: N = fps × duration, what a clip has where its source has as many.
        clip_ids, captions: in the order of the shard.

    Raises:
        VLFMError: if there is no store at `path`, or it is damaged or of another version.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            group = zarr.open_group(self.path, mode="r")
            attributes = group.attrs.asdict()
            version = attributes["version"]
            if version != VERSION:
                raise VLFMError(
                    f"{path} has store version {version}, this code reads {VERSION}; "
                    "remove it and run `vlfm invert` again"
                )
            # By name: Snakemake puts a file of its own into the folder, which a listing would warn of.
            self._arrays = {name: group[name] for name in ARRAYS if name in group}
            self._latents = self._arrays["latents"]
            self.fingerprint: str = attributes["fingerprint"]
            self.about: dict[str, Any] = attributes["about"]
            self.duration: float = attributes["duration"]
            self.fps: float = attributes["fps"]
            self.height: int = attributes["height"]
            self.width: int = attributes["width"]
            self.clip_ids: list[str] = attributes["clip_ids"]
            self.captions: list[str] = attributes["captions"]
        except (OSError, KeyError, ValueError) as error:
            raise VLFMError(
                f"{path} is no latent store, or a damaged one ({error}); remove it and run `vlfm invert` again"
            ) from error
        self._position = {clip_id: index for index, clip_id in enumerate(self.clip_ids)}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w) of every clip's latents."""
        return self._latents.shape[2:]

    @property
    def num_frames(self) -> int:
        return round(self.fps * self.duration)

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Clip id → n, how many frames it has."""
        counts = np.isfinite(np.asarray(self._arrays["times"][...])).sum(1)
        return dict(zip(self.clip_ids, counts.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __iter__(self) -> Iterator[ClipLatents]:
        return (self[clip_id] for clip_id in self.clip_ids)

    def caption_of(self, clip_id: str) -> tuple[np.ndarray, np.ndarray]:
        """A clip's caption embedding, tokens (L, D) float32 and mask (L,) bool; its latents are not read."""
        index = self._index(clip_id)
        return np.asarray(self._arrays["tokens"][index]).astype(np.float32), np.asarray(self._arrays["mask"][index])

    def _index(self, clip_id: str) -> int:
        try:
            return self._position[clip_id]
        except KeyError:
            raise VLFMError(f"clip {clip_id} is not in {self.path}") from None

    def __getitem__(self, clip_id: str) -> ClipLatents:
        index = self._index(clip_id)
        times = np.asarray(self._arrays["times"][index])
        times = times[np.isfinite(times)]
        return ClipLatents(
            clip_id=clip_id,
            latents=np.asarray(self._latents[index])[: len(times)].astype(np.float32),
            times=times,
            tokens=np.asarray(self._arrays["tokens"][index]).astype(np.float32),
            mask=np.asarray(self._arrays["mask"][index]),
            caption=self.captions[index],
            round_trip=float(self._arrays["round_trip"][index]),
            duration=self.duration,
            rounding=float(self._arrays["rounding"][index]),
            null_text=self._null_text(index),
        )

    def _null_text(self, index: int) -> np.ndarray | None:
        if "null_text" not in self._arrays:
            return None
        return np.asarray(self._arrays["null_text"][index]).astype(np.float32)
