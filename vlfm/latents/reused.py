"""Clips, decoder and latents of another run, taken as they are: what `latents_from` asks for.

What is small is copied, so that a plan stays what it was though the other run grows; shards are links, file by file.
Nothing is written into the other run's folder.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlfm import config as configs
from vlfm.errors import FingerprintMismatch, VLFMError
from vlfm.latents.invert import SETTINGS, latents_fingerprint
from vlfm.latents.store import LatentStore
from vlfm.storage.files import atomic_path
from vlfm.storage.fingerprints import check_fingerprint

# What clips and their latents are made by; the same in both runs.
ALIKE = (
    *SETTINGS,
    "clips.index",
    "clips.digits",
    "clips.min_frames",
    "clips.duration",
    "clips.size",
    "clips.shard_size",
    "clips.image",
    "clips.shot_threshold",
    "clips.decoder",
    "clips.captioner",
    "decoder",
    "text",
)


class OtherRun:
    """The run that `latents_from` names.

    Raises:
        VLFMError: if `latents_from` is null, or there is no run.
        FingerprintMismatch: if its clips, decoder or latents were asked for with other settings; names each.
    """

    def __init__(self, config: configs.Config):
        if config.latents_from is None:
            raise VLFMError("latents_from is null: name the results folder of the run whose latents are to be taken")
        self.config, self.results = config, Path(config.latents_from)
        path = self.results / "config.yaml"
        if not path.exists():
            raise VLFMError(f"latents_from is {self.results}, where no run is: there is no {path}")
        theirs = configs.settings(configs.laid_over(config, path), *ALIKE)
        if different := list(_different("", configs.settings(config, *ALIKE), theirs)):
            raise FingerprintMismatch(
                f"the latents in {self.results} are of other settings than this run's: {'; '.join(different)}. Give "
                f"its configuration first, `--configfile {path} mine.yaml`, and in yours only what comes after latents"
            )

    def take_plan(self, manifest: Path, plan: Path) -> None:
        """Copy its manifest and its shard plan, the plan last."""
        source = self._there(self.results / "clips" / "shards.json")
        if source == plan.resolve():
            raise VLFMError(f"latents_from is {self.results}, this run's own results: name another run's")
        _copy(self._there(self.results / "clips" / "manifest.parquet"), manifest)
        _copy(source, plan)

    def take_decoder(self, output: Path) -> None:
        """Copy its visual decoder's folder, `decoder.json` last."""
        source = self._there(self.results / "decoder" / "decoder.json").parent
        for path in sorted(source.rglob("*"), key=lambda path: path.name == "decoder.json"):
            if path.is_file() and not path.name.startswith("."):
                _copy(path, output / path.relative_to(source))

    def take_clips(self, shard: str, output: Path) -> None:
        """Link a shard of clips."""
        source = self._there(self.results / "clips" / f"{shard}.tar")
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        output.symlink_to(source)

    def take_latents(self, shard: str, decoder: Path, output: Path) -> None:
        """Link the files of a shard's latents.

        Args:
            decoder: the folder of this run's decoder.

        Raises:
            FingerprintMismatch: if the other run made them with other settings, or another decoder, than it has now.
        """
        source = self._there(self.results / "latents" / f"{shard}.zarr")
        expected = latents_fingerprint(self.config, decoder)
        remedy = f"Run `snakemake latents` again where {self.results} is, then here."
        check_fingerprint(LatentStore(source).fingerprint, expected, source, remedy)
        temporary = output.with_name(f".{output.name}.tmp")
        for folder in (temporary, output):
            shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.name != ".snakemake_timestamp":
                link = temporary / path.relative_to(source)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path)
        temporary.rename(output)

    def _there(self, path: Path) -> Path:
        if not path.exists():
            raise VLFMError(f"{path} is missing: finish the run in {self.results} with `snakemake latents`, then this")
        return path.resolve()


def _different(name: str, ours: Any, theirs: Any) -> Iterator[str]:
    """Each key that differs, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours:
            yield from _different(f"{name}.{key}" if name else key, ours[key], theirs.get(key))
    elif ours != theirs:
        yield f"{name} is {theirs} there and {ours} here"


def _copy(source: Path, output: Path) -> None:
    with atomic_path(output) as temporary:
        shutil.copyfile(source, temporary)
