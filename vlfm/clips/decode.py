"""One shard of the plan → one tar of decoded clips, and a ledger row for each.

Finished clips lie one by one in a folder beside the shard until it is complete, so that a job that was killed
goes on with the clip it was at. The folder is named after everything that decides what is in them.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlfm import config
from vlfm.clips import video_files, worker
from vlfm.clips.decode_worker import SEEK
from vlfm.clips.locate import find, is_remote
from vlfm.errors import BadClip, VLFMError
from vlfm.progress import Stopwatch, progress
from vlfm.storage.files import disk_may_be_full, remove_partial
from vlfm.storage.fingerprints import fingerprint
from vlfm.storage.ledger import LedgerRow, check_share_of_bad, write_ledger
from vlfm.storage.locks import sole_writer
from vlfm.storage.manifest import Clip, read_manifest, shard_digest
from vlfm.storage.tar import read_tar, write_tar

VERSION = 3  # of the frames this module makes; raise it when the same settings give others


def decode_shard(clips: config.Clips, manifest: Path, shard: int, output: Path, ledger: Path, sources: Path) -> None:
    """Decode all clips of a shard.

    Args:
        clips: the settings; the duration and the size of the frames are the plan's.
        manifest: the plan, from `build_index`.
        shard: which part of it.
        output: the tar. Per clip, keyed by its id and in plan order: N frames `000.png` … (or jpg) of the clip's
            height × width, fewer where its source has fewer a second (see `choose_frames`), `txt` (the caption) and
            `json`: `times` (clip time of each frame, seconds, in (0, T]), `shown` (seconds in the source, the first
            frame of the source being 0), `decoder`, `source_fps`, `frames_reported` (by the container, or
            null) and `frames_decoded` (up to the clip's last frame, counted from the start of the source;
            null after a seek), and clip_id, source, start, end, caption, duration, fps, height, width. Bad clips
            are left out. The same input gives the same bytes.
        ledger: parquet; one row per clip with what it took, or the reason why it is missing.
        sources: folder for downloads, shared by all shards; it may be deleted once all shards are there.

    Raises:
        VLFMError: more than the share `clips.max_bad` is bad (the ledger is written nevertheless), the shard
            is not in the plan, the plan was made for other durations or sizes, or the disk is full.
    """
    plan = read_manifest(manifest, shard)
    shape = _shape(clips, manifest, plan)
    partial = output.parent / f".{output.stem}.partial-{_identity(clips, plan, shape)}"
    with sole_writer(output):
        for stale in output.parent.glob(f".{output.stem}.*.tmp{output.suffix}"):  # of a job that was killed
            stale.unlink(missing_ok=True)
        partial.mkdir(parents=True, exist_ok=True)
        pieces, bad = _decode_plan(clips, plan, shape, partial, sources)
        rows = [_ledger_row(clip, pieces.get(clip.clip_id), bad.get(clip.clip_id)) for clip in plan]
        with disk_may_be_full(output):
            write_ledger(ledger, rows)
            check_share_of_bad(rows, clips.max_bad, f"shard {shard:05d}")
            write_tar(output, (_sample(pieces[clip.clip_id]) for clip in plan if clip.clip_id in pieces))
        remove_partial(partial)


@dataclass(frozen=True)
class Shape:
    """What all clips of a shard have in common: T in seconds, N, and the size of the frames in pixels."""

    duration: float
    count: int
    height: int
    width: int


def _shape(clips: config.Clips, manifest: Path, plan: list[Clip]) -> Shape:
    first = plan[0]
    duration = clips.duration_near(first.duration)
    size = first.height, first.width
    if duration is None or size not in clips.sizes:
        raise VLFMError(
            f"{manifest} plans clips of {first.duration:g} s and {first.height}×{first.width} pixels for shard "
            f"{first.shard}, which clips.duration and clips.size do not list; run `vlfm index` again"
        )
    return Shape(duration, clips.num_frames_of(duration), *size)


def _decode_plan(
    clips: config.Clips, plan: list[Clip], shape: Shape, partial: Path, sources: Path
) -> tuple[dict[str, Path], dict[str, tuple[str, float]]]:
    """The good clips' files by their ids; and of the bad ones the reason and the seconds they took."""
    pieces: dict[str, Path] = {}
    bad: dict[str, tuple[str, float]] = {}
    with progress(total=len(plan), what=f"decode shard {plan[0].shard:05d}") as bar:
        for source, wanted in _by_source(plan).items():
            watch, paths, settled = Stopwatch(), {}, set()
            try:
                file = find(source, sources, clips.timeout, clips.download)
                paths = {clip.clip_id: _piece(partial, clip, file) for clip in wanted}
                settled = {name for name, path in paths.items() if path.is_file()}
                bar.update(len(settled))
                if len(settled) < len(wanted):
                    for name, reason, seconds in _decode_source(clips, shape, file, wanted, paths):
                        bar.update(name not in settled)
                        settled.add(name)
                        if reason:
                            bad[name] = (f"{source}: {reason}", seconds)
                pieces |= {name: path for name, path in paths.items() if name not in bad}
            except BadClip as error:
                pieces |= {name: path for name, path in paths.items() if path.is_file()}
                new = [clip for clip in wanted if clip.clip_id not in bad | pieces]
                bar.update(len(wanted) - len(settled))
                reason = str(error) if source in str(error) else f"{source}: {error}"
                bad |= {clip.clip_id: (reason, watch.seconds / len(new)) for clip in new}
    return pieces, bad


def _identity(clips: config.Clips, plan: list[Clip], shape: Shape) -> str:
    made_by = {
        "version": VERSION,
        "shard": shard_digest(plan),
        **clips.model_dump(include={"fps", "min_frames", "image", "decoder"}),
        **vars(shape),
    }
    return fingerprint(made_by)


def _by_source(plan: list[Clip]) -> dict[str, list[Clip]]:
    groups: dict[str, list[Clip]] = {}
    for clip in plan:
        groups.setdefault(clip.source, []).append(clip)
    return groups


def _piece(partial: Path, clip: Clip, file: Path) -> Path:
    """Where a finished clip lies. The name holds a local file's size and time: a replaced file gets no old clips."""
    stat = file.stat()
    version = "url" if is_remote(clip.source) else fingerprint({"size": stat.st_size, "mtime": stat.st_mtime_ns})
    return partial / f"{clip.clip_id}-{version}.tar"


def _decode_source(
    clips: config.Clips, shape: Shape, file: Path, wanted: list[Clip], paths: dict[str, Path]
) -> Iterator[tuple[str, str, float]]:
    """Decode the missing clips of one source, by ffmpeg; with `clips.decoder: decord` by decord first.

    Where decord fails on one clip, the others it made of this source are made again by ffmpeg: how far it came
    before it noticed is chance, and the same input has to give the same bytes.

    Yields:
        (clip id, reason or "", seconds) for each.

    Raises:
        BadClip: the file cannot be opened or decoded at all; it holds for the clips that have no piece.
        VLFMError: the disk is full.
    """
    found = video_files.probe(file, clips.timeout)
    task: dict[str, Any] = {
        "do": "decode",
        "file": str(file),
        "media": vars(found),
        "reported": None,
        "fps": clips.fps,
        "least": clips.min_frames,
        **vars(shape),
        "image": clips.image,
    }
    early = [clip for clip in wanted if clip.start <= SEEK]  # decord does without seeks: they are not reliable
    if clips.decoder == "decord" and found.plain and early:
        made = [_info(paths[clip.clip_id]) for clip in early if paths[clip.clip_id].is_file()]
        task["reported"] = next((info["frames_reported"] for info in made), None)
        trouble = "as before" if any(info["decoder"] != "decord" for info in made) else None
        try:
            if trouble is None:
                for report in _run(task, "decord", early, paths, clips.timeout):
                    task["reported"] = report.get("reported", task["reported"])
                    trouble = report.get("failed", trouble)
                    if "clip" in report:
                        yield report["clip"], "", report["seconds"]
        except worker.Died as error:
            trouble = str(error)
        if trouble is not None:
            print(f"{file}: not to be decoded with decord ({trouble}), going on with ffmpeg", file=sys.stderr)
            for path in (paths[clip.clip_id] for clip in early):
                if path.is_file() and _info(path)["decoder"] == "decord":
                    path.unlink()
    try:
        for report in _run(task, "ffmpeg", wanted, paths, clips.timeout):
            if "clip" in report:
                yield report["clip"], report.get("bad", ""), report["seconds"]
    except worker.Died as error:
        raise BadClip(f"{file} cannot be decoded: {error}; replace the file or raise clips.timeout") from None


def _run(
    task: dict[str, Any], decoder: str, wanted: list[Clip], paths: dict[str, Path], timeout: float
) -> Iterator[dict[str, Any]]:
    """Have a child make the pieces that are missing, and yield its reports."""
    missing = [clip for clip in wanted if not paths[clip.clip_id].is_file()]
    if not missing:
        return
    items = [
        {
            "clip_id": clip.clip_id,
            "source": clip.source,
            "start": clip.start,
            "end": clip.end,
            "caption": clip.caption,
            "piece": str(paths[clip.clip_id].absolute()),
        }
        for clip in sorted(missing, key=lambda clip: (clip.start, clip.row))
    ]
    for report in worker.run(task | {"decoder": decoder, "clips": items}, timeout):
        if "fatal" in report:
            folder = paths[missing[0].clip_id].parent
            raise VLFMError(f"{folder} cannot be written ({report['fatal']}); free space there")
        yield report


def _info(piece: Path) -> dict[str, Any]:
    return json.loads(next(read_tar(piece))["json"])


def _sample(piece: Path) -> dict[str, Any]:
    sample = next(read_tar(piece))
    sample.pop("seconds.json")
    return sample


def _ledger_row(clip: Clip, piece: Path | None, bad: tuple[str, float] | None) -> LedgerRow:
    common = {"clip_id": clip.clip_id, "stage": "decode", "source": clip.source, "row": clip.row}
    if piece is None:
        reason, seconds = bad or ("not decoded", 0.0)
        return LedgerRow(status="bad", reason=f"row {clip.row}: {reason}", seconds=seconds, **common)
    sample = next(read_tar(piece))
    seconds = float(sample.pop("seconds.json"))
    return LedgerRow(
        status="ok",
        seconds=seconds,
        bytes=sum(len(data) for name, data in sample.items() if name != "__key__"),
        **common,
    )
