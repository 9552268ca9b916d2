"""The inversion stage: frames of one shard of clips → a latent store."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.artifacts import (
    LedgerRow,
    Stopwatch,
    check_fingerprint,
    check_share_of_bad,
    fingerprint,
    progress,
    read_json,
    write_ledger,
)
from vlfm.checkpoints import load_state, save_state
from vlfm.clips.shards import DecodedClip, read_clips
from vlfm.latents.decoder import VisualDecoder
from vlfm.latents.frames import psnr, to_tensor
from vlfm.latents.load import caption_encoder_fingerprint, load_caption_encoder, load_decoder
from vlfm.latents.store import VERSION, ClipLatents, LatentStore, write_store
from vlfm.latents.text import CaptionEncoder


def latents_fingerprint(config: configs.Config, decoder_folder: Path) -> str:
    """What the latents of a clip depend on, beside the clip."""
    return fingerprint(
        {
            "version": VERSION,
            **configs.settings(config, "inversion", "clips.fps", "clips.duration", "clips.size"),
            "decoder": read_json(decoder_folder / "decoder.json")["fingerprint"],
            "captions": caption_encoder_fingerprint(config),
        }
    )


def invert_shard(
    config: configs.Config,
    clips: Path,
    decoder_folder: Path,
    output: Path,
    ledger: Path,
    device: torch.device,
) -> None:
    """Invert a shard of clips into the zarr store `output`, batch by batch.

    Finished batches lie beside the store until it is whole, so that a killed job repeats one batch at most.
    A clip whose latents are not finite is left out and told in the ledger.

    Raises:
        FingerprintMismatch: if `output` exists and was made with other settings.
        VLFMError: if too many clips of the shard are bad.
    """
    identity = latents_fingerprint(config, decoder_folder)
    if output.exists():
        check_fingerprint(
            LatentStore(output).fingerprint, identity, output, "Remove it, or write to another folder."
        )
    partial = output.parent / f".{output.name}.partial-{identity}"
    partial.mkdir(parents=True, exist_ok=True)
    decoder = load_decoder(config, decoder_folder, device)
    encoder = load_caption_encoder(config, device)
    clips_a_batch = max(1, config.inversion.batch_size // config.clips.num_frames)

    good: list[ClipLatents] = []
    rows: list[LedgerRow] = []
    shard = list(read_clips(clips))
    bar = progress(total=len(shard), what=f"invert {output.stem}")
    for batch in _batches(shard, clips_a_batch):
        watch = Stopwatch()
        file = partial / f"{batch[0].clip_id}.safetensors"
        if not file.exists():
            save_state(file, _invert_batch(batch, decoder, encoder))
        results = load_state(file)
        seconds = watch.seconds / len(batch)
        for clip, result in zip(batch, results, strict=True):
            reason = _why_bad(result["latents"])
            if not reason:
                good.append(
                    ClipLatents(
                        clip_id=clip.clip_id,
                        latents=result["latents"].numpy(),
                        times=clip.times,
                        tokens=result["tokens"].numpy(),
                        mask=result["mask"].numpy(),
                        caption=clip.caption,
                        round_trip=result["round_trip"],
                    )
                )
            rows.append(
                LedgerRow(
                    clip_id=clip.clip_id,
                    stage="invert",
                    status="bad" if reason else "ok",
                    reason=reason,
                    source=clip.info["source"],
                    row=clip.info.get("row", 0),
                    seconds=seconds,
                    bytes=0
                    if reason
                    else int(result["latents"].numel() * np.dtype(config.inversion.dtype).itemsize),
                )
            )
        bar.update(len(batch))
    bar.close()
    write_ledger(ledger, rows)
    check_share_of_bad(rows, config.clips.max_bad, f"invert {clips}")
    write_store(
        output,
        good,
        config.inversion.dtype,
        identity,
        configs.settings(config, "inversion", "text", "decoder", "clips.fps", "clips.duration", "clips.size"),
    )
    shutil.rmtree(partial)


def _invert_batch(batch: list[DecodedClip], decoder: VisualDecoder, encoder: CaptionEncoder) -> list[dict]:
    frames = to_tensor(np.stack([clip.frames for clip in batch]))
    flat = frames.flatten(0, 1)
    latents = decoder.invert(flat)
    scores = psnr(decoder.generate(latents).cpu(), flat).unflatten(0, frames.shape[:2]).mean(1)
    latents = latents.cpu().unflatten(0, frames.shape[:2])
    captions = encoder.encode([clip.caption for clip in batch])
    return [
        {
            "latents": latents[index],
            "tokens": captions.tokens[index].cpu(),
            "mask": captions.mask[index].cpu(),
            "round_trip": scores[index].item(),
        }
        for index in range(len(batch))
    ]


def _why_bad(latents: torch.Tensor) -> str:
    if not torch.isfinite(latents).all():
        return "inversion gave latents that are not finite; more steps or float32 may help"
    if latents.abs().max() > np.finfo(np.float16).max:
        return "inversion gave latents too large for float16; set inversion.dtype to float32"
    return ""


def _batches(clips: list[DecodedClip], size: int) -> Iterator[list[DecodedClip]]:
    return (clips[start : start + size] for start in range(0, len(clips), size))
