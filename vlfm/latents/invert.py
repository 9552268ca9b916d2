"""The inversion stage: frames of one shard of clips → a latent store.

Finished clips lie one by one in a folder beside the store until it is complete, so that a job that was killed goes on
with the batch it was at. The folder is named after everything that decides what is in them. Which clips share a batch
is decided by their place in the shard alone: the last bits of a clip's latents depend on its neighbours, and a killed
job must end with the same bytes as any other.
"""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vlfm import config as configs
from vlfm.captions.load import caption_encoder_fingerprint, load_caption_encoder
from vlfm.clips.shards import DecodedClip, read_captions, read_clips
from vlfm.decoders.load import load_decoder
from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.latents.batch_size import BatchSizes
from vlfm.latents.invert_batch import Inverter, Result, chosen_for_check, frames_at_once
from vlfm.latents.store import VERSION, ClipLatents, LatentStore, write_store
from vlfm.progress import progress
from vlfm.storage import unfinished
from vlfm.storage.files import read_json, remove_partial
from vlfm.storage.fingerprints import check_fingerprint, fingerprint
from vlfm.storage.ledger import LedgerRow, check_share_of_bad, write_ledger
from vlfm.storage.locks import sole_writer
from vlfm.words import plural

# What decides the latents, up to their last bits. Batch size and compilation decide only the last bits, `check` none.
SETTINGS = (
    "inversion.depth",
    "inversion.steps",
    "inversion.refine",
    "inversion.prompt",
    "inversion.guidance",
    "inversion.null_text",
    "inversion.precision",
    "inversion.dtype",
    "clips.fps",
)


def latents_fingerprint(config: configs.Config, decoder_folder: Path) -> str:
    """What the latents of a clip depend on, beside the clip: the same for all shards of a run."""
    return fingerprint(
        {
            "version": VERSION,
            **configs.settings(config, *SETTINGS),
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

    Frames are read as they are needed, one batch ahead. Length, frame rate and size are those of the shard's clips. A
    clip whose latents are not finite is left out and told in the ledger. The round trip is measured on
    `inversion.check` of the clips. A killed job repeats one batch at most.

    Raises:
        FingerprintMismatch: if `output` exists and was made with other settings, or of other clips' length or size.
        VLFMError: if too many clips of the shard are bad, the disk is full, or not one frame fits the device.
    """
    identity = latents_fingerprint(config, decoder_folder)
    captions = read_captions(clips)
    stream = read_clips(clips)
    first = next(stream, None)
    if first is None:
        raise VLFMError(f"{clips} holds no clip; remove it and run its rule again")
    video = _Video.of(first, clips)
    if output.exists():
        _check_output(output, identity, video)
    partial = _partial_folder(config, clips, output, identity)
    with sole_writer(output), unfinished.disk_may_be_full(partial):
        partial.mkdir(parents=True, exist_ok=True)
        tokens = _encode_captions(config, captions, partial / "captions.safetensors", device)
        decoder = load_decoder(config, decoder_folder, device)
        decoder.batch_size = None  # batches are cut here, by what fits
        sizes = BatchSizes(partial / "batch.json", lambda: frames_at_once(config, decoder, first, len(captions)))
        checked = chosen_for_check(list(captions), config.inversion.check)
        inverter = Inverter(config, decoder, sizes, checked)

        stored: list[ClipLatents] = []
        rows: list[LedgerRow] = []
        clips_a_batch = max(1, sizes.first // round(video.fps * video.duration))
        with progress(total=len(captions), what=f"invert {output.stem}") as bar:
            for number, batch in enumerate(_read_ahead(_batches(itertools.chain([first], stream), clips_a_batch))):
                for clip in batch:
                    video.check(clip, clips)
                for clip, result in zip(batch, _finished(partial, number, batch, inverter), strict=True):
                    reason = result.reason or _why_bad_caption(tokens[clip.caption][0])
                    if not reason:
                        stored.append(_to_store(clip, result, *tokens[clip.caption]))
                    rows.append(_ledger_row(clip, result, reason))
                bar.update(len(batch))
        write_ledger(ledger, rows)
        check_share_of_bad(rows, config.clips.max_bad, f"invert {clips}")
        about = configs.settings(config, "inversion", "text", "decoder") | {"frames_a_batch": sizes.pairs}
        write_store(
            output,
            stored,
            config.inversion.dtype,
            identity,
            about,
            fps=video.fps,
            height=video.height,
            width=video.width,
        )
        remove_partial(partial)
    measured = [clip.round_trip for clip in stored if np.isfinite(clip.round_trip)]
    round_trip = f"{np.mean(measured):.2f} dB of {plural(len(measured), 'clip')}" if measured else "not measured"
    print(
        f"{output.stem}: {plural(len(stored), 'clip')}; round trip {round_trip}; {config.inversion.dtype} moves "
        f"latents by {max(clip.rounding for clip in stored):.1e} of their RMS at most"
    )


@dataclass(frozen=True)
class _Video:
    """What the clips of a shard have in common."""

    duration: float
    fps: float
    height: int
    width: int

    @classmethod
    def of(cls, clip: DecodedClip, shard: Path) -> "_Video":
        try:
            duration, fps = float(clip.info["duration"]), float(clip.info["fps"])
        except (KeyError, TypeError, ValueError):
            raise VLFMError(
                f"{shard}: {clip.clip_id}.json gives no duration and fps; remove the shard and run its rule again"
            ) from None
        return cls(duration, fps, *clip.frames.shape[1:3])

    def __str__(self) -> str:
        return f"frames of {self.width}×{self.height}, {self.fps:g} a second, in {self.duration:g} s"

    def check(self, clip: DecodedClip, shard: Path) -> None:
        if (other := self.of(clip, shard)) != self:
            raise VLFMError(
                f"{shard}: {clip.clip_id} has {other}, the first clip {self}; all clips of a shard are alike: remove "
                "it and run its rule again"
            )


def _check_output(output: Path, identity: str, video: _Video) -> None:
    store = LatentStore(output)
    check_fingerprint(store.fingerprint, identity, output, "Remove it, or write to another folder.")
    there = _Video(store.duration, store.fps, store.height, store.width)
    if there != video:
        raise FingerprintMismatch(
            f"{output} holds clips with {there}, now they have {video}. Remove it, or write to another folder."
        )


def _partial_folder(config: configs.Config, clips: Path, output: Path, identity: str) -> Path:
    stat = clips.stat()
    made_by = {
        "latents": identity,
        "clips": [stat.st_size, stat.st_mtime_ns],
        **configs.settings(config, "inversion.batch_size", "inversion.compile", "inversion.check"),
    }
    return output.parent / f".{output.name}.partial-{fingerprint(made_by)}"


def _batches(clips: Iterator[DecodedClip], size: int) -> Iterator[list[DecodedClip]]:
    while batch := list(itertools.islice(clips, size)):
        yield batch


def _read_ahead(batches: Iterator[list[DecodedClip]]) -> Iterator[list[DecodedClip]]:
    """The next batch's pictures are decoded while the device works on this one."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


# ----------------------------------------------------------------------------------------- captions


def _encode_captions(
    config: configs.Config, captions: dict[str, str], file: Path, device: torch.device
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Caption → tokens (L, D) as they are stored, and mask (L,); each distinct caption is encoded once a shard."""
    distinct = list(dict.fromkeys(captions.values()))
    if not file.exists():
        encoder = load_caption_encoder(config, device)
        dtype = getattr(torch, config.inversion.dtype)
        tokens, masks = [], []
        for start in range(0, len(distinct), 64):
            encoded = encoder.encode(distinct[start : start + 64])
            tokens.append(encoded.tokens.to(dtype).cpu())
            masks.append(encoded.mask.cpu())
        unfinished.save(file, {"tokens": torch.cat(tokens), "mask": torch.cat(masks)})
    saved = unfinished.load(file, "tokens", "mask")
    pairs = zip(saved["tokens"].numpy(), saved["mask"].numpy(), strict=True)
    return dict(zip(distinct, pairs, strict=True))


def _why_bad_caption(tokens: np.ndarray) -> str:
    if np.isfinite(tokens).all():
        return ""
    return f"the caption's embedding is not finite in {tokens.dtype}; set inversion.dtype to float32"


# ------------------------------------------------------------------------------------------- clips


def _finished(partial: Path, number: int, batch: list[DecodedClip], inverter: Inverter) -> list[Result]:
    """The results of a batch, from the files of an earlier run if all are there. What is bad is tried again."""
    files = [partial / f"{clip.clip_id}.safetensors" for clip in batch]
    if not all(file.exists() for file in files):
        results = inverter(number, batch)
        for file, result in zip(files, results, strict=True):
            if not result.reason:
                numbers = torch.tensor([result.round_trip, result.rounding, result.seconds], dtype=torch.float64)
                null_text = {} if result.null_text is None else {"null_text": result.null_text}
                unfinished.save(file, {"latents": result.latents, "numbers": numbers, **null_text})
        return results
    saved = [unfinished.load(file, "latents", "numbers") for file in files]
    return [Result(state["latents"], *state["numbers"].tolist(), null_text=state.get("null_text")) for state in saved]


def _to_store(clip: DecodedClip, result: Result, tokens: np.ndarray, mask: np.ndarray) -> ClipLatents:
    return ClipLatents(
        clip_id=clip.clip_id,
        latents=result.latents.numpy(),
        times=clip.times,
        tokens=tokens,
        mask=mask,
        caption=clip.caption,
        round_trip=result.round_trip,
        duration=float(clip.info["duration"]),
        rounding=result.rounding,
        null_text=None if result.null_text is None else result.null_text.numpy(),
    )


def _ledger_row(clip: DecodedClip, result: Result, reason: str) -> LedgerRow:
    return LedgerRow(
        clip_id=clip.clip_id,
        stage="invert",
        status="bad" if reason else "ok",
        reason=reason,
        source=clip.info["source"],
        seconds=result.seconds,
        bytes=0 if reason else sum(kept.nbytes for kept in (result.latents, result.null_text) if kept is not None),
    )
