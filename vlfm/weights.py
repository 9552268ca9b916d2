"""Where a model's files are: a folder, or a hub id that is fetched once; read as safetensors and nothing else.

A `part` is a subfolder of a diffusers folder (`unet`, `vae`, `tokenizer`, …), or "" for a model that lies in the
folder itself. Parts named `tokenizer…` and `scheduler` have no weights, every other part must.
"""

import fnmatch
import hashlib
import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError
from vlfm.storage.files import read_json
from vlfm.words import plural

# Not the variants (model.fp16.safetensors, diffusion_pytorch_model.non_ema.safetensors): one file is the model.
WEIGHTS = tuple(
    f"{stem}{shard}.safetensors" for stem in ("diffusion_pytorch_model", "model") for shard in ("", "-?????-of-?????")
)
SETTINGS = ("*.json",)
VOCABULARY = ("*.txt", "*.model")
UNSAFE = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5")
# What a library writes into a configuration about itself and about where it found the model.
_INCIDENTAL = {"_name_or_path", "name_or_path", "_diffusers_version", "transformers_version", "_commit_hash"}


def locate(model: str, parts: Collection[str], key: str = "decoder.model", online: bool = True) -> Path:
    """The folder that holds a model's parts.

    A folder is taken as it is. Anything else is a hub id: looked for in the local cache first, without any
    network; only if parts are missing there, they are fetched: their safetensors and settings, nothing else.

    Args:
        model: a folder or a hub id.
        parts: what is needed of it.
        key: the configuration's key that named it, for messages.
        online: False never fetches.

    Raises:
        VLFMError: saying what is missing and how to fetch or convert it.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        problems = _problems(path, parts)
        if problems:
            raise VLFMError(f"{key} is {model}, where {'; '.join(problems)}")
        return path.resolve()
    if path.is_file():
        raise VLFMError(
            f"{key} is {model}, a single file; it must be a folder with one subfolder a part. Write one with "
            "diffusers: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model) or model.startswith("."):
        raise VLFMError(f"{key} is {model}: there is no such folder, and a hub id looks like owner/name")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    patterns = _patterns(parts)
    reason = ""
    for local in (True, False) if online else (True,):
        if not local:
            print(f"{model}: fetching what is not on this machine of {', '.join(filter(None, sorted(parts))) or 'it'}")
        try:
            folder = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=local))
        except (OSError, ValueError, HTTPError, EntryNotFoundError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        problems = _problems(folder, parts)
        if not problems:
            return folder
        reason = "; ".join(problems)
    includes = " ".join(f"--include {shlex.quote(pattern)}" for pattern in patterns)
    raise VLFMError(
        f"{key} is {model}: no such folder, not complete in the local cache, and "
        f"{'not to be had from the hub' if online else 'not looked for on the hub'} ({reason}).\n"
        f"Fetch it where there is a network:\n  hf download {model} {includes}\n"
        f"or set {key} to a folder that holds {', '.join(part or 'the model' for part in sorted(parts))}."
    )


def is_whole(folder: Path, parts: Collection[str]) -> bool:
    """Whether a folder has all that is needed of these parts."""
    return not _problems(folder, parts)


def files(folder: Path, part: str) -> list[Path]:
    """The files of a part that are read: settings, and weights without their variants; sorted by name."""
    place = folder / part if part else folder
    if not place.is_dir():
        return []
    return [
        file
        for file in sorted(place.iterdir())
        if file.is_file() and any(fnmatch.fnmatchcase(file.name, pattern) for pattern in _names(part))
    ]


def fingerprint_folder(folder: Path, parts: Collection[str]) -> str:
    """Identity of a model's parts: 16 hex digits of the SHA-256 of settings and weights.

    Depends on content and on names within the folder, never on where the folder lies: a hub id and a copy of its
    files agree. Read anew each time; 4 GB take a few seconds.
    """
    whole = hashlib.sha256()
    for part in sorted(parts):
        for file in files(folder, part):
            if file.name.endswith("config.json"):
                digest = hashlib.sha256(_essential(read_json(file)))
            else:
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256")
            whole.update(f"{part}/{file.name}\0{digest.hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def load_network(
    kind: type, folder: Path, part: str, dtype, unused: str | None = None, remedy: str = "fetch it again"
) -> Any:
    """A diffusers or transformers network of a located folder, on the CPU, in evaluation mode, without gradients.

    Args:
        kind: its class, with `from_pretrained`.
        dtype: torch's, of its parameters.
        unused: a word; parameters with it in their names may be missing.
        remedy: what to do about a network that does not load, for messages.

    Raises:
        VLFMError: if the file is damaged, or is not that network: a parameter that it lacks would otherwise be
            made up at random.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    place = folder / part if part else folder
    try:
        network, report = kind.from_pretrained(
            place, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:
        # The loaders have no common error: a truncated file, a wrong shape and a wrong class all differ.
        raise VLFMError(
            f"{place} does not load as {kind.__name__} ({type(error).__name__}: {str(error)[:300]}); {remedy}"
        ) from error
    missing = sorted(name for name in report["missing_keys"] if unused is None or unused not in name)
    bad = missing + [str(key) for key in report.get("mismatched_keys", ())]
    if bad:
        raise VLFMError(
            f"{place} is no whole {kind.__name__}: its weights lack {plural(len(bad), 'parameter')}, "
            f"{bad[0]} for one; its config.json belongs to another model, or the file was cut; {remedy}"
        )
    return network.eval().requires_grad_(False)


def _has_no_weights(part: str) -> bool:
    return part.startswith(("tokenizer", "scheduler"))


def _names(part: str) -> tuple[str, ...]:
    """Globs of the files of a part that are read."""
    vocabulary = VOCABULARY if part.startswith("tokenizer") or not part else ()
    return (*SETTINGS, *vocabulary, *(() if _has_no_weights(part) else WEIGHTS))


def _patterns(parts: Collection[str]) -> list[str]:
    """Globs of the files to fetch, for the hub's `allow_patterns`."""
    return [f"{part}/{name}" if part else name for part in sorted(parts) for name in _names(part)]


def _problems(folder: Path, parts: Collection[str]) -> list[str]:
    return [problem for part in sorted(parts) if (problem := _problem(folder, part))]


def _problem(folder: Path, part: str) -> str:
    """What a part lacks, in words; empty if it is whole."""
    place = folder / part if part else folder
    name = part or "the folder"
    names = {file.name for file in files(folder, part)}
    if not names and not place.is_dir():
        return f"there is no {name}"
    if part.startswith("tokenizer"):
        return "" if names else f"{name} has no tokenizer files"
    settings = "scheduler_config.json" if part == "scheduler" else "config.json"
    if settings not in names:
        return f"{name} has no {settings}"
    if _has_no_weights(part):
        return ""
    for index in sorted(place.glob("*.safetensors.index.json")):
        if fnmatch.fnmatchcase(index.name, "*model.safetensors.index.json"):
            missing = sorted(set(read_json(index)["weight_map"].values()) - names)
            return f"{name} lacks {', '.join(missing)}" if missing else ""
    if any(file.endswith(".safetensors") for file in names):
        return ""
    others = sorted(file.name for file in place.iterdir() if file.suffix in UNSAFE)
    if others:
        return (
            f"{name} has its weights only as {others[0]}; only safetensors are read, because such files can run code. "
            "Convert it once, if you trust it: load it with diffusers or transformers, then "
            "save_pretrained(FOLDER, safe_serialization=True)"
        )
    return f"{name} has no weights ({' or '.join(WEIGHTS[::2])})"


def _essential(settings: Any) -> bytes:
    """A configuration without what says nothing about the model, as canonical JSON."""
    if isinstance(settings, dict):
        settings = {key: value for key, value in settings.items() if key not in _INCIDENTAL}
    return json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()
