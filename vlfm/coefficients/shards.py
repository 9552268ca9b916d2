"""Coefficient shards: what training reads. One tar member group per clip, plus a small JSON of moments."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlfm.errors import VLFMError
from vlfm.storage.npy import load_npy, npy_bytes
from vlfm.storage.tar import read_tar, write_tar

CAPTION = ("json", "mask.npy", "tokens.npy")  # the members that hold a clip's caption; they lie side by side


@dataclass(frozen=True)
class ClipCoefficients:
    """One training example.

    Attributes:
        clip_id: its name everywhere.
        coefficients: H, (C, h, w, s) float32.
        tokens: (L, D) float32 caption embedding.
        mask: (L,) bool.
        caption: the text.
        times: (N,) float64, seconds: where the clip's frames lie on [0, T].
        duration: T, seconds.
        num_frames: N.
    """

    clip_id: str
    coefficients: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    caption: str
    times: np.ndarray
    duration: float
    num_frames: int


@dataclass(frozen=True)
class ClipCaption:
    """What a training example says, without its coefficients.

    Attributes:
        caption: the text.
        tokens: (L, D) float32 caption embedding.
        mask: (L,) bool.
    """

    caption: str
    tokens: np.ndarray
    mask: np.ndarray


def encode(clip: ClipCoefficients) -> dict[str, bytes | str]:
    """A clip as a webdataset sample; embeddings in float16 where that loses nothing, as of a store of float16."""
    with np.errstate(over="ignore"):
        half = clip.tokens.astype(np.float16)
    tokens = half if np.array_equal(half.astype(np.float32), clip.tokens) else clip.tokens.astype(np.float32)
    return {
        "__key__": clip.clip_id,
        "coefficients.npy": npy_bytes(clip.coefficients.astype(np.float32)),
        "tokens.npy": npy_bytes(tokens),
        "mask.npy": npy_bytes(clip.mask),
        "json": json.dumps(
            {
                "clip_id": clip.clip_id,
                "caption": clip.caption,
                "times": clip.times.tolist(),
                "duration": clip.duration,
                "num_frames": clip.num_frames,
            },
            sort_keys=True,
        ).encode(),
    }


def decode(sample: dict[str, bytes], where: str) -> ClipCoefficients:
    """The clip in a webdataset sample.

    Raises:
        VLFMError: if a member is missing or no plain array, naming shard and clip.
    """
    key = sample["__key__"]
    try:
        about = json.loads(sample["json"])
        coefficients = load_npy(sample["coefficients.npy"], f"{where}: {key}.coefficients.npy")
        text = decode_caption(sample, where)
        return ClipCoefficients(
            clip_id=about["clip_id"],
            coefficients=coefficients,
            tokens=text.tokens,
            mask=text.mask,
            caption=text.caption,
            times=np.array(about["times"]),
            duration=float(about["duration"]),
            num_frames=int(about["num_frames"]),
        )
    except (KeyError, ValueError) as error:
        raise _incomplete(where, key, error) from error


def decode_caption(sample: dict[str, bytes], where: str) -> ClipCaption:
    """The caption in the members `CAPTION` of a webdataset sample.

    Raises:
        VLFMError: as `decode` does.
    """
    key = sample["__key__"]
    try:
        return ClipCaption(
            caption=json.loads(sample["json"])["caption"],
            tokens=load_npy(sample["tokens.npy"], f"{where}: {key}.tokens.npy").astype(np.float32),
            mask=load_npy(sample["mask.npy"], f"{where}: {key}.mask.npy"),
        )
    except (KeyError, ValueError) as error:
        raise _incomplete(where, key, error) from error


def _incomplete(where: str, key: str, why: Exception) -> VLFMError:
    return VLFMError(f"{where}: clip {key} is incomplete ({why}); remove the shard, run its rule again")


def write_shard(path: Path | str, clips: Iterator[ClipCoefficients]) -> int:
    """Write a shard, atomically; returns how many clips it holds."""
    return write_tar(path, map(encode, clips))


def read_shard(path: Path | str, only: Collection[str] | None = None) -> Iterator[ClipCoefficients]:
    """Yield the clips of a shard, or those of these ids alone."""
    return (decode(sample, str(path)) for sample in read_tar(path, only))
