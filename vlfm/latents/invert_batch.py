"""Batches of clips → latents as they are stored, and what they lose; as many frames at once as fit the device."""

import copy
import sys
from dataclasses import dataclass, replace

import numpy as np
import torch

from vlfm import config as configs
from vlfm.clips.shards import DecodedClip
from vlfm.decoders.base import VisualDecoder
from vlfm.errors import VLFMError
from vlfm.frames import psnr, to_tensor
from vlfm.latents.batch_size import LARGEST, RUNS, BatchSizes, find_batch_size
from vlfm.progress import Stopwatch
from vlfm.words import plural

PROBE_STEPS = 4  # of the walks that find how many frames fit


@dataclass(frozen=True)
class Result:
    """Of one clip: latents (N, C, h, w) as they are stored, what they cost, and why they are no good, if so.

    With guidance also its null text (K, L, D), as it is stored.
    """

    latents: torch.Tensor
    round_trip: float
    rounding: float
    seconds: float
    reason: str = ""
    null_text: torch.Tensor | None = None


class Inverter:
    """Batches of clips → results, as many frames at once as fit the device."""

    def __init__(self, config: configs.Config, decoder: VisualDecoder, sizes: BatchSizes):
        self._decoder = decoder
        self._sizes = sizes
        self._dtype = getattr(torch, config.inversion.dtype)
        self._prompted = config.inversion.prompt == "caption"
        self._guided = config.inversion.null_text > 0
        self._may_shrink = config.inversion.batch_size == "auto"

    def __call__(self, number: int, batch: list[DecodedClip]) -> list[Result]:
        """Invert a batch, all anew with fewer frames at once if they do not fit."""
        while True:
            try:
                return self._invert(batch, self._sizes.at(number))
            except torch.OutOfMemoryError as error:
                size = self._sizes.at(number)
                if size == 1 or not self._may_shrink:
                    raise VLFMError(_does_not_fit(size, self._decoder, error)) from error
            # Not in the handler above: the error holds on to the tensors of the attempt.
            torch.cuda.empty_cache()
            print(f"{size} frames at once do not fit, going on with {self._sizes.halve(number)}", file=sys.stderr)

    def _invert(self, batch: list[DecodedClip], size: int) -> list[Result]:
        if self._guided:
            return [self._invert_guided(clip, size) for clip in batch]
        watch = Stopwatch()
        frames = np.concatenate([clip.frames for clip in batch])
        captions = [clip.caption for clip in batch for _ in clip.frames] if self._prompted else None
        latents, stored, scores = [], [], []
        for part in np.array_split(np.arange(len(frames)), -(-len(frames) // size)):
            seen = [captions[index] for index in part] if captions else None
            truth = to_tensor(frames[part]).to(self._decoder.device)
            found = self._decoder.invert(truth, seen)
            kept = found.to(self._dtype)
            # Of the latents as they are stored: the loss of rounding them is part of the round trip.
            scores.append(psnr(self._decoder.generate(kept.float(), seen), truth).cpu())
            latents.append(found.cpu())
            stored.append(kept.cpu())
        lengths = [len(clip.frames) for clip in batch]
        seconds = watch.seconds / len(batch)
        columns = (torch.cat(column).split(lengths) for column in (latents, stored, scores))
        return [_judge(*row, seconds) for row in zip(*columns, strict=True)]

    def _invert_guided(self, clip: DecodedClip, size: int) -> Result:
        """One clip at a time, since its frames share the null text."""
        watch = Stopwatch()
        truth = to_tensor(clip.frames).to(self._decoder.device)
        found, null_text = self._decoder.invert_guided(truth, clip.caption, size)
        kept, null_text = found.to(self._dtype), null_text.half()
        scores = [
            psnr(self._decoder.generate(part.float(), [clip.caption] * len(part), null_text), frames).cpu()
            for part, frames in zip(kept.split(size), truth.split(size), strict=True)
        ]
        result = _judge(found.cpu(), kept.cpu(), torch.cat(scores), watch.seconds)
        return replace(result, null_text=null_text.cpu())


def _judge(latents: torch.Tensor, stored: torch.Tensor, scores: torch.Tensor, seconds: float) -> Result:
    reason = ""
    if not torch.isfinite(latents).all():
        reason = "inversion gave latents that are not finite; more steps, or float32 for inversion.precision, may help"
    elif not torch.isfinite(stored).all():
        reason = "inversion gave latents too large for float16; set inversion.dtype to float32"
    elif not torch.isfinite(scores).all():
        reason = "latents are finite, but frames generated from them are not; inversion.precision: float32 may help"
    size = latents.double().square().mean().sqrt().clamp_min(1e-30)
    rounding = (stored.double() - latents.double()).square().mean().sqrt() / size
    return Result(stored, scores.mean().item(), rounding.item(), seconds, reason)


def frames_at_once(config: configs.Config, decoder: VisualDecoder, clip: DecodedClip, clips: int) -> int:
    """`inversion.batch_size`, or what a few steps on the frames of one clip say fits and pays."""
    if config.inversion.batch_size != "auto":
        return config.inversion.batch_size
    brief = copy.copy(decoder)
    if hasattr(brief, "steps"):
        brief.steps = min(brief.steps, PROBE_STEPS)

    def work(size: int) -> None:
        frames = to_tensor(clip.frames[np.resize(np.arange(len(clip.frames)), size)])
        captions = [clip.caption] * size if config.inversion.prompt == "caption" else None
        brief.generate(brief.invert(frames, captions), captions)

    try:
        found = find_batch_size(work, decoder.device, min(LARGEST, clips * len(clip.frames) // RUNS))
    except torch.OutOfMemoryError as error:
        raise VLFMError(_does_not_fit(1, decoder, error)) from error
    print(f"inversion.batch_size auto: {plural(found, 'frame')} at once")
    return found


def _does_not_fit(size: int, decoder: VisualDecoder, error: BaseException) -> str:
    remedy = "clips.size to less" if size == 1 else "inversion.batch_size to less, or to auto"
    who = "1 frame does" if size == 1 else f"{size} frames at once do"
    return f"{who} not fit {decoder.device} ({str(error).splitlines()[0]}); set {remedy}"
