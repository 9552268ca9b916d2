"""Batches of clips → latents as they are stored, and what they lose; as many frames at once as fit the device.

What is lost, the round trip, is measured on a share of the clips: to generate a clip again costs half of what it cost
to invert it.
"""

import copy
import math
import sys
from collections.abc import Collection, Sequence
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
from vlfm.words import first_line, plural

PROBE_STEPS = 4  # of the walks that find how many frames fit


@dataclass(frozen=True)
class Result:
    """Of one clip: latents (N, C, h, w) as they are stored, what they cost, and why they are no good, if so.

    `round_trip` is NaN for a clip that was not generated again. With guidance also its null text (K, L, D), as it is
    stored.
    """

    latents: torch.Tensor
    round_trip: float
    rounding: float
    seconds: float
    reason: str = ""
    null_text: torch.Tensor | None = None


def chosen_for_check(clip_ids: Sequence[str], share: float) -> set[str]:
    """The clips of a shard whose round trip is measured: `share` of them, rounded up, the first one and then evenly
    spread."""
    due = [math.ceil(round(place * share, 9)) for place in range(len(clip_ids) + 1)]
    return {clip_id for place, clip_id in enumerate(clip_ids) if due[place + 1] > due[place]}


class Inverter:
    """Batches of clips → results, as many frames at once as fit the device.

    Args:
        checked: ids of the clips whose round trip is measured.
    """

    def __init__(self, config: configs.Config, decoder: VisualDecoder, sizes: BatchSizes, checked: Collection[str]):
        self._decoder = decoder
        self._sizes = sizes
        self._checked = checked
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
        latents, stored = [], []
        for part in np.array_split(np.arange(len(frames)), -(-len(frames) // size)):
            seen = [captions[index] for index in part] if captions else None
            found = self._decoder.invert(to_tensor(frames[part]).to(self._decoder.device), seen)
            latents.append(found.cpu())
            stored.append(found.to(self._dtype).cpu())
        lengths = [len(clip.frames) for clip in batch]
        found, kept = torch.cat(latents).split(lengths), torch.cat(stored).split(lengths)
        scores = self._check(batch, kept, size)
        seconds = watch.seconds / len(batch)
        return [_judge(*row, seconds) for row in zip(found, kept, scores, strict=True)]

    def _invert_guided(self, clip: DecodedClip, size: int) -> Result:
        """One clip at a time, since its frames share the null text."""
        watch = Stopwatch()
        truth = to_tensor(clip.frames).to(self._decoder.device)
        found, null_text = self._decoder.invert_guided(truth, clip.caption, size)
        found, kept, null_text = found.cpu(), found.to(self._dtype).cpu(), null_text.half()
        (scores,) = self._check([clip], [kept], size, null_text)
        result = _judge(found, kept, scores, watch.seconds)
        return replace(result, null_text=null_text.cpu())

    def _check(
        self,
        batch: Sequence[DecodedClip],
        kept: Sequence[torch.Tensor],
        size: int,
        null_text: torch.Tensor | None = None,
    ) -> list[torch.Tensor | None]:
        """For each clip the PSNR of its frames (N,) after inversion and regeneration; None for one not to be checked.

        Of the latents as they are stored: the loss of rounding them is part of the round trip.
        """
        chosen = [place for place, clip in enumerate(batch) if clip.clip_id in self._checked]
        found: list[torch.Tensor | None] = [None] * len(batch)
        if not chosen:
            return found
        latents = torch.cat([kept[place] for place in chosen])
        truth = np.concatenate([batch[place].frames for place in chosen])
        captions = [batch[place].caption for place in chosen for _ in kept[place]]
        scores = []
        for start in range(0, len(latents), size):
            part = slice(start, start + size)
            seen = captions[part] if self._prompted else None
            made = self._decoder.generate(latents[part].to(self._decoder.device).float(), seen, null_text)
            scores.append(psnr(made, to_tensor(truth[part]).to(made.device)).cpu())
        lengths = [len(kept[place]) for place in chosen]
        for place, score in zip(chosen, torch.cat(scores).split(lengths), strict=True):
            found[place] = score
        return found


def _judge(latents: torch.Tensor, stored: torch.Tensor, scores: torch.Tensor | None, seconds: float) -> Result:
    reason = ""
    if not torch.isfinite(latents).all():
        reason = "inversion gave latents that are not finite; more steps, or float32 for inversion.precision, may help"
    elif not torch.isfinite(stored).all():
        reason = "inversion gave latents too large for float16; set inversion.dtype to float32"
    elif scores is not None and not torch.isfinite(scores).all():
        reason = "latents are finite, but frames generated from them are not; inversion.precision: float32 may help"
    size = latents.double().square().mean().sqrt().clamp_min(1e-30)
    rounding = (stored.double() - latents.double()).square().mean().sqrt() / size
    round_trip = math.nan if scores is None else scores.mean().item()
    return Result(stored, round_trip, rounding.item(), seconds, reason)


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
    return f"{who} not fit {decoder.device} ({first_line(error)}); set {remedy}"
