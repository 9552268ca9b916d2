"""What a configuration names: index files, and models that must be in a folder or in the hub's local cache."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlfm import config as configs
from vlfm.errors import VLFMError
from vlfm.operations.doctor.check import Check
from vlfm.weights import locate

PART = "configuration"
FETCHED = "where there is a network, a run fetches it by itself"


def check_configuration(config: configs.Config) -> Iterator[Check]:
    """The index files and the models that a configuration names; nothing is fetched."""
    from vlfm.captions.load import locate_caption_encoder

    yield from _check_index(config.clips)
    if config.decoder.name == "embedded":
        yield Check(PART, "decoder.name", "embedded: it is trained on the clips, there is nothing to fetch")
    else:
        from vlfm.decoders.prepare import locate_decoder  # seconds of imports

        yield _located("decoder.model", config.decoder.model, lambda: locate_decoder(config.decoder, online=False)[0])
    yield _located("text.encoder", config.text.encoder, lambda: locate_caption_encoder(config, online=False))
    if captioner := config.clips.captioner:
        yield _located("clips.captioner", captioner, lambda: locate(captioner, {""}, "clips.captioner", online=False))
    features = config.generation.features
    if features != "trained":
        key = "generation.features"
        yield _located(key, features, lambda: locate(features, {""}, key, online=False))


def _located(key: str, named: Any, find: Callable[[], Path]) -> Check:
    try:
        return Check(PART, key, f"{named}: {find()}")
    except VLFMError as error:
        reason, _, remedy = str(error).partition("\n")
        fetched = remedy and not Path(str(named)).expanduser().exists()
        lines = [line.strip() for line in remedy.splitlines()] + [FETCHED] * bool(fetched)
        return Check(PART, key, reason, "missing", "\n".join(lines))


def _check_index(clips: configs.Clips) -> Iterator[Check]:
    from vlfm.clips.datasets import index_files

    if clips.index in ("demo", "moving-digits"):
        yield Check(PART, "clips.index", f"{clips.index}: its clips come with the packages")
    elif isinstance(clips.index, str):
        there = Path(clips.index).is_file()
        remedy = "correct the path; it is relative to the run's folder"
        yield Check(PART, "clips.index", clips.index, *(() if there else ("missing", remedy)))
    else:
        for entry in clips.index:
            name = f"clips.index {entry.dataset}"
            try:
                files = index_files(entry)
                yield Check(PART, name, ", ".join(map(str, files[:3])) + (" …" if len(files) > 3 else ""))
            except VLFMError as error:
                yield Check(PART, name, str(error), "missing")
