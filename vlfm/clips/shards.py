"""Decoded clips, read back from the tars that `decode_shard` writes."""

import io
import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlfm.clips.windows import nearest
from vlfm.errors import VLFMError
from vlfm.storage.tar import member_places, read_tar


@dataclass(frozen=True)
class DecodedClip:
    """One clip.

    Attributes:
        clip_id: its name in every store.
        frames: uint8 (n, H, W, 3), RGB; n is N, or less where the source has fewer frames a second.
        times: clip time of each frame in seconds, float64 (n,), strictly increasing, in (0, T].
        caption: text.
        info: what `decode_shard` wrote about it: source, start, end, fps, duration, height,
            width, decoder, …
    """

    clip_id: str
    frames: np.ndarray
    times: np.ndarray
    caption: str
    info: dict[str, Any]

    def evenly(self) -> np.ndarray:
        """N frames, uint8 (N, H, W, 3): the nearest to each instant τT/N, or the clip's own where it has N."""
        count = round(self.info["fps"] * self.info["duration"])
        if len(self.frames) == count:
            return self.frames
        instants = np.arange(1, count + 1) * self.info["duration"] / count
        return self.frames[[nearest(self.times, instant) for instant in instants]]


def read_clips(path: Path | str, only: Collection[str] | None = None) -> Iterator[DecodedClip]:
    """Yield the clips of a shard in plan order, one in memory at a time.

    Args:
        only: ids of the clips that are wanted; pictures of others are not decoded.

    Raises:
        VLFMError: a damaged tar, a picture that is none or of another size, a missing member, times that do not fit
            the frames; the message names the shard and the member.
    """
    for sample in read_tar(path, only):
        yield _clip(path, sample)


def read_ids(path: Path | str) -> list[str]:
    """The ids of the clips of a shard, in order; only headers are read.

    Raises:
        VLFMError: a damaged tar.
    """
    return list(member_places(path))


def read_captions(path: Path | str) -> dict[str, str]:
    """Clip id → caption of a shard, in order; only headers and captions are read.

    Raises:
        VLFMError: a damaged tar.
    """
    captions = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension == "txt" and member.isfile():
                    captions[key] = tar.extractfile(member).read().decode()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise VLFMError(f"{path} is damaged ({error}); remove it and run its rule again") from error
    return captions


def _clip(path: Path | str, sample: dict[str, Any]) -> DecodedClip:
    key = sample["__key__"]
    remedy = "remove the shard and run its rule again"
    if missing := {"json", "txt"} - sample.keys():
        raise VLFMError(f"{path}: {key} has no member {', '.join(sorted(missing))}; {remedy}")
    try:
        info = json.loads(sample["json"])
        times = np.array(info["times"], dtype=np.float64)
        caption = sample["txt"].decode()
    except (ValueError, KeyError, TypeError) as error:
        raise VLFMError(f"{path}: {key}.json or {key}.txt is not what decoding writes ({error}); {remedy}") from error
    # The thousandth frame and on have longer names.
    names = sorted((name for name in sample if name.endswith((".png", ".jpg"))), key=lambda name: (len(name), name))
    if times.ndim != 1 or len(names) != len(times) or not len(times):
        raise VLFMError(f"{path}: {key} has {len(names)} frames for {times.size} times; {remedy}")
    if not np.all(np.isfinite(times)) or np.any(np.diff(times) <= 0):
        raise VLFMError(f"{path}: the times in {key}.json do not increase; {remedy}")
    frames: np.ndarray | None = None
    for index, name in enumerate(names):
        try:
            with Image.open(io.BytesIO(sample[name]), formats=("PNG", "JPEG")) as image:
                picture = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VLFMError(f"{path}: {key}.{name} is not a picture ({error}); {remedy}") from error
        if frames is None:
            frames = np.empty((len(names), *picture.shape), dtype=np.uint8)
        if picture.shape != frames.shape[1:]:
            raise VLFMError(
                f"{path}: {key}.{name} is {picture.shape[1]}×{picture.shape[0]} pixels, the first frame "
                f"{frames.shape[2]}×{frames.shape[1]}; {remedy}"
            )
        frames[index] = picture
    return DecodedClip(key, frames, times, caption, info)
