"""The visual decoder that a configuration names."""

import contextlib
import time
from pathlib import Path

import torch

from vlfm import config as configs
from vlfm.decoders.autoencoder import AutoencoderDecoder, LatentAutoencoder
from vlfm.decoders.base import VisualDecoder
from vlfm.decoders.embedded import EmbeddedDecoder
from vlfm.errors import VLFMError
from vlfm.precision import network_dtype
from vlfm.storage.files import read_json, write_json
from vlfm.storage.fingerprints import check_fingerprint, fingerprint
from vlfm.weights import files, fingerprint_folder

UNMEASURED = 8  # frames at a time for `inversion.batch_size: auto` where nobody measures what fits
FOUND = ("decoder.name", "decoder.model", "decoder.vae")  # what says where a decoder is that is not embedded
RECORD = "files.json"  # beside decoder.json: the model's files as they were when their fingerprint was taken
SETTLED = 2.0  # seconds after which another change of a file is sure to show in its times, on any file system


def load_decoder(config: configs.Config, folder: Path, device: torch.device) -> VisualDecoder:
    """The visual decoder that `vlfm prepare-decoder` made or found, as its folder's `decoder.json` says.

    Raises:
        VLFMError: if the folder is of another decoder, or the model is no longer where it was found, or no longer the
            same: the latents of a run are never a mixture.
    """
    about, remedy = read_json(folder / "decoder.json"), "run `vlfm prepare-decoder` again"
    if config.decoder.name == "embedded":
        if about["name"] != "embedded":
            raise VLFMError(f"{folder} is of the decoder {about['name']}, not of an embedded one; {remedy}")
        inversion = config.inversion
        dtype = network_dtype(inversion.precision, device)
        decoder = EmbeddedDecoder.from_pretrained(
            folder, inversion.steps, inversion.refine, dtype, inversion.compile, inversion.depth
        )
        decoder.batch_size = _batch_size(config)
        return decoder.to(device)
    for key, asked in configs.settings(config, *FOUND).items():
        if about["settings"].get(key) != asked:
            raise VLFMError(f"{folder} was prepared for another {key} than {asked} (it has {about['name']}); {remedy}")
    model, vae, parts = Path(about["model"]), about["vae"] and Path(about["vae"]), tuple(about["parts"])
    for place in filter(None, (model, vae)):
        if not place.is_dir():
            raise VLFMError(f"the decoder was found in {place}, which is no more; {remedy}")
    check_fingerprint(
        recorded_fingerprint(folder / RECORD, about["name"], model, vae, parts),
        about["fingerprint"],
        model,
        f"To use it as it is now, {remedy}.",
    )
    return open_decoder(config, model, vae, parts, device)


def decoder_fingerprint(name: str, model: Path, vae: Path | None, parts: tuple[str, ...]) -> str:
    """Identity of a decoder that was found: its weights, not where they lie. All files are read once through."""
    return fingerprint(
        {
            "name": name,
            "model": fingerprint_folder(model, parts),
            "vae": None if vae is None else fingerprint_folder(vae, {""}),
        }
    )


def recorded_fingerprint(
    record: Path, name: str, model: Path, vae: Path | None, parts: tuple[str, ...], anew: bool = False
) -> str:
    """`decoder_fingerprint`, from a record of it as long as no file has changed since: every job of a run asks.

    The record holds each file's size, mtime and ctime (nothing sets a ctime back). If one differs, or a file was added
    or removed, all files are read again and the record is renewed.

    Args:
        record: a JSON file, written where it can be.
        anew: read the files in any case.
    """
    now = time.time()
    seen = _seen(model, vae, parts)
    if not anew:
        with contextlib.suppress(VLFMError, KeyError, TypeError):
            known = read_json(record)
            if known["files"] == seen:
                return known["fingerprint"]
    identity = decoder_fingerprint(name, model, vae, parts)
    settled = all(max(times) < (now - SETTLED) * 1e9 for _, *times in seen.values())
    # A job may be allowed to read the folder only.
    with contextlib.suppress(OSError):
        if settled and _seen(model, vae, parts) == seen:
            write_json(record, {"fingerprint": identity, "files": seen})
        else:
            record.unlink(missing_ok=True)
    return identity


def _seen(model: Path, vae: Path | None, parts: tuple[str, ...]) -> dict[str, list[int]]:
    """Size in bytes and the two times in nanoseconds of every file that a fingerprint is made of."""
    found = [file for part in parts for file in files(model, part)] + (files(vae, "") if vae else [])
    stats = {str(file): file.stat() for file in found}
    return {name: [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for name, stat in stats.items()}


def _batch_size(config: configs.Config) -> int:
    return UNMEASURED if config.inversion.batch_size == "auto" else config.inversion.batch_size


def open_decoder(
    config: configs.Config, model: Path, vae: Path | str | None, parts: tuple[str, ...], device: torch.device
) -> VisualDecoder:
    """A decoder that is not embedded, from the folders where it was found.

    Args:
        model: the located folder.
        vae: the folder of stable-diffusion's autoencoder.
        parts: of the model that are used.
    """
    dtype = network_dtype(config.inversion.precision, device)
    # What an autoencoder loses is lost in every frame, and its share of the time is small.
    vae_dtype = torch.bfloat16 if config.inversion.precision == "bfloat16" else torch.float32
    options = {
        "steps": config.inversion.steps,
        "refine": config.inversion.refine,
        "captioned": config.inversion.prompt == "caption",
        "batch_size": _batch_size(config),
        "compile": config.inversion.compile,
        "depth": config.inversion.depth,
    }
    if config.decoder.name == "autoencoder":
        return AutoencoderDecoder(LatentAutoencoder.from_folder(model, vae_dtype)).to(device)
    # Their networks, with all of diffusers', are most of the start-up of a job: imported where they are asked for.
    if config.decoder.name == "stable-diffusion":
        from vlfm.decoders.stable_diffusion import StableDiffusionDecoder

        guided = {"guidance": config.inversion.guidance, "null_text": config.inversion.null_text}
        return StableDiffusionDecoder.from_folder(model, vae, dtype, vae_dtype, **options, **guided).to(device)
    from vlfm.decoders.rectified_flow import RectifiedFlowDecoder

    return RectifiedFlowDecoder.from_folder(model, parts, dtype, vae_dtype, **options).to(device)
