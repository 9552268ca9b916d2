"""Captions for clips that have none, by a model of transformers that says what a picture shows."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlfm.clips.shards import read_captions, read_clips
from vlfm.errors import VLFMError
from vlfm.progress import Stopwatch, progress
from vlfm.storage.ledger import LedgerRow, check_share_of_bad, write_ledger
from vlfm.storage.tar import read_tar, write_tar
from vlfm.weights import load_network, locate
from vlfm.words import first_line

BATCH = 16  # pictures at once
WORDS = 40  # tokens of a caption, at most


class Captioner:
    """Pictures → captions by greedy decoding: the same picture gives the same caption.

    Args:
        model: a folder with safetensors weights of a model that captions (BLIP, BLIP-2, GIT), or a hub id.
        device: where it goes; on a GPU the weights are bfloat16.

    Raises:
        VLFMError: no such model, or none of this kind.
    """

    def __init__(self, model: str, device: torch.device):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder = locate(model, {""}, "clips.captioner")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        try:
            self._processor = AutoProcessor.from_pretrained(folder)
            network = load_network(AutoModelForImageTextToText, folder, "", dtype)
        except (OSError, ValueError, KeyError, ImportError, VLFMError) as error:
            raise VLFMError(
                f"clips.captioner is {model}, which is no image-to-text model of transformers "
                f"({first_line(error)}); fetch it again, or give a model that captions, BLIP or GIT for "
                "example"
            ) from error
        if getattr(self._processor, "chat_template", None):
            raise VLFMError(
                f"clips.captioner is {model}, which answers questions; give a model that captions without being asked, "
                "BLIP or GIT for example"
            )
        self._network = network.to(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, pictures: Sequence[np.ndarray]) -> list[str]:
        """A caption for each picture, uint8 (H, W, 3); without line breaks, perhaps empty."""
        inputs = self._processor(images=list(pictures), return_tensors="pt")
        inputs = inputs.to(self._device)
        for name, value in inputs.items():
            if torch.is_floating_point(value):
                inputs[name] = value.to(self._network.dtype)
        tokens = self._network.generate(**inputs, max_new_tokens=WORDS, do_sample=False)
        return [" ".join(text.split()) for text in self._processor.batch_decode(tokens, skip_special_tokens=True)]


def caption_shard(captioner: Captioner, clips: Path, output: Path, ledger: Path, max_bad: float) -> None:
    """Give each clip of a shard that has no caption one, of its middle frame.

    Args:
        clips, output: tars of decoded clips; `output` has those of `clips` in their order, each with a caption.
        ledger: parquet, a row for each clip that had none.
        max_bad: share of the shard's clips that may stay without, before the shard fails.

    Raises:
        VLFMError: too many are without, or a damaged tar.
    """
    rows: list[LedgerRow] = []
    found: dict[str, str] = {}
    captions_now = read_captions(clips)
    bare = [name for name, caption in captions_now.items() if not caption]
    with progress(total=len(bare), what=f"caption {clips.stem}") as bar:
        stream = read_clips(clips, set(bare))
        while batch := list(itertools.islice(stream, BATCH)):
            watch = Stopwatch()
            captions = captioner([clip.frames[len(clip.frames) // 2] for clip in batch])
            for clip, caption in zip(batch, captions, strict=True):
                found[clip.clip_id] = caption
                reason = "" if caption else "the model says nothing of its middle frame; write a caption"
                status, seconds = "bad" if reason else "ok", watch.seconds / len(batch)
                rows.append(LedgerRow(clip.clip_id, "caption", status, reason, clip.info["source"], 0, seconds))
            bar.update(len(batch))
    write_ledger(ledger, rows)
    check_share_of_bad(rows, max_bad, f"captions of {clips}", len(captions_now))
    write_tar(output, _captioned(clips, found))


def _captioned(path: Path, found: dict[str, str]) -> Iterator[dict[str, Any]]:
    for sample in read_tar(path):
        caption = found.get(sample["__key__"])
        if caption == "":
            continue
        if caption is not None:
            info = json.loads(sample["json"]) | {"caption": caption}
            sample["txt"] = caption.encode()
            sample["json"] = json.dumps(info, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
        yield sample
