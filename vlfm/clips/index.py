"""From the user's CSV to the manifest: rows checked, long takes cut, windows dealt out to shards."""

import csv
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from vlfm import config
from vlfm.clips.cutting import Cutter
from vlfm.clips.locate import name_source
from vlfm.errors import BadClip, VLFMError
from vlfm.progress import Stopwatch, progress
from vlfm.splits import REMEDY, SPLITS, TRAIN
from vlfm.storage.files import read_json, write_json
from vlfm.storage.ledger import LedgerRow, write_ledger
from vlfm.storage.manifest import Clip, clip_id, read_manifest, shard_digest, write_manifest
from vlfm.words import plural

COLUMNS = ("source", "start", "end", "caption")
OPTIONAL = ("split",)
DEMO = Path(__file__).with_name("demo.csv")
DIGITS = Path("digits", "digits.csv")  # beside the manifest


@dataclass(frozen=True)
class Row:
    """One line of the CSV, checked: `start` and `end` in seconds, None where the cell is empty; `split` is never so."""

    line: int
    source: str
    start: float | None
    end: float | None
    caption: str
    split: str = TRAIN


def build_index(clips: config.Clips, manifest: Path, ledger: Path, shards: Path) -> None:
    """Make the manifest and the frozen shard plan from `clips.index`.

    A row whose start and end are one of the durations apart is one clip. A longer row, or one with start or end left
    empty (the source's own), is cut at shot boundaries into consecutive windows, each of the longest duration that
    fits, that all take its caption. A row with an empty caption is bad: the model learns from captions, and
    `split_video` leaves them to be filled in. The size of a clip is the one nearest to its source's aspect ratio;
    with more than one size, every source has to be at hand, and remote ones are downloaded here.

    A column `split` may say `train` or `test`, for the clips that are to be trained on and those that are not; without
    it, and where its cell is empty, they are trained on.

    All clips of a shard have the same duration, size and split: new clips are dealt out to shards by these.

    The plan is in the CSV's order, and frozen. Clips of an earlier plan at the same place keep their shard, clips no
    longer listed drop out of theirs, new ones fill new shards after the last number ever given. The plan is also
    kept in `plan.json` beside the manifest, which is no output of a rule and survives its rerun. Only a clip whose
    split has changed, or that other settings give another size than the rest of its shard, leaves it as if it were
    new.

    Args:
        clips: the settings; `clips.index` is `demo`, `moving-digits` (which `make_digits` has drawn beside the
            manifest) or a CSV with the columns source, start, end, caption and perhaps split.
        manifest: parquet, one row per clip, grouped by shard.
        ledger: parquet, one row per clip, and per row of the CSV that is bad, with the reason.
        shards: json, {"00000": {"clips": n, "digest": …, "duration": seconds, "height": pixels, "width": pixels,
            "split": …}, …}.

    Raises:
        VLFMError: no CSV, no text, a missing column, not one good row, or none to train on.
    """
    path = _csv(clips.index, manifest)
    rows: list[LedgerRow] = []
    found: list[Clip] = []
    lines: dict[str, int] = {}
    cutter = Cutter(clips, manifest.parent / "sources")
    entries = list(read_rows(path))
    for entry in progress(entries, what="index", unit="row"):
        watch = Stopwatch()
        line = entry.line
        try:
            if isinstance(entry, Bad):
                raise BadClip(entry.reason)
            windows = cutter.windows(entry.source, entry.start, entry.end)
            height, width = cutter.size(entry.source)
            fresh = []
            for start, end in windows:
                name = clip_id(entry.source, start, end)
                if name in lines and len(windows) == 1:
                    raise BadClip(f"{entry.source}: the same window as row {lines[name]}; leave one of them out")
                if name not in lines:
                    clip = Clip(name, entry.source, start, end, entry.caption, line, 0, height, width, entry.split)
                    fresh.append(clip)
            if not fresh:
                raise BadClip(f"{entry.source}: every window of it is in an earlier row; leave one of them out")
        except BadClip as error:
            rows.append(LedgerRow("", "index", "bad", f"row {line}: {error}", entry.source, line, watch.seconds))
            continue
        for clip in fresh:
            lines[clip.clip_id] = line
            rows.append(LedgerRow(clip.clip_id, "index", "ok", "", clip.source, line, watch.seconds / len(fresh)))
        found.extend(fresh)
    write_ledger(ledger, rows)
    _tell(path, [row for row in rows if row.status != "ok"], len(found))
    if all(clip.split != TRAIN for clip in found):
        raise VLFMError(
            f"{path} holds no training clip: its {plural(len(found), 'good clip')} are for the test; {REMEDY}"
        )
    _write_plan(clips, found, manifest, shards)


def _csv(index: str, manifest: Path) -> Path:
    """The CSV that `clips.index` stands for."""
    if index != "moving-digits":
        return DEMO if index == "demo" else Path(index)
    path = manifest.parent / DIGITS
    if not path.exists():
        raise VLFMError(f"{path} is missing: no moving digits are drawn yet; run `vlfm make-digits --output {path}`")
    return path


@dataclass(frozen=True)
class Bad:
    """A line of the CSV that is no row."""

    line: int
    source: str
    reason: str


def read_rows(path: Path) -> Iterator[Row | Bad]:
    """Read a CSV of clips, line by line; `line` counts the header as 1.

    Raises:
        VLFMError: no such file, no UTF-8 text, no CSV, or a missing column: with its name and the names
        found.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            header = [name.strip().lower() for name in next(reader, [])]
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise VLFMError(
                    f"{path} has no column {', '.join(missing)}; its first line names "
                    f"{', '.join(header) or 'nothing'}. "
                    f"It must name {','.join(COLUMNS)}; start and end may be empty cells"
                )
            if twice := [name for name in (*COLUMNS, *OPTIONAL) if header.count(name) > 1]:
                raise VLFMError(f"{path} has the column {', '.join(twice)} twice; remove one")
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield _row(path, line, header, cells)
                line = reader.line_num + 1
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise VLFMError(
            f"{path} cannot be read ({error.strerror}); clips.index must be demo, moving-digits or a CSV"
        ) from None
    except UnicodeDecodeError as error:
        raise VLFMError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise VLFMError(f"{path}, line {reader.line_num}: not valid CSV ({error}); mend the line") from None


def _row(path: Path, line: int, header: list[str], cells: list[str]) -> Row | Bad:
    values = dict(zip(header, (cell.strip() for cell in cells), strict=False))
    source = values.get("source", "")
    try:
        if len(cells) != len(header):
            raise BadClip(
                f"{source}: {len(cells)} cells where the first line of {path.name} has {len(header)}; "
                "put quotation marks around a caption with commas"
            )
        if not source:
            raise BadClip(f"the source is empty; give a path, an http(s) address or package:NAME/PATH ({path.name})")
        name = name_source(source, path.parent)
        start, end = (_seconds(name, column, values[column]) for column in ("start", "end"))
        if end is not None and (start or 0.0) >= end:
            raise BadClip(f"{name}: start {start or 0:g} is not before end {end:g}; correct them (seconds)")
        if not values["caption"]:
            raise BadClip(f"{name}: the caption is empty; write what the window shows")
        split = values.get("split") or TRAIN
        if split not in SPLITS:
            raise BadClip(
                f"{name}: split is {split!r}; write {' or '.join(SPLITS)}, or leave the cell empty for {TRAIN}"
            )
    except BadClip as error:
        return Bad(line, source, str(error))
    return Row(line, name, start, end, " ".join(values["caption"].split()), split)


def _seconds(source: str, column: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise BadClip(f"{source}: {column} is {cell!r}; give seconds from the start of the source, 0 or more")
    return value


def _tell(path: Path, bad: list[LedgerRow], good: int) -> None:
    listed = "\n".join(f"  {row.reason}" for row in bad[:20])
    if len(bad) > 20:
        listed += f"\n  … and {len(bad) - 20} more, all in the ledger"
    if not good:
        raise VLFMError(f"{path} holds not one good clip:\n{listed or '  it has no rows'}")
    if bad:
        print(f"{path}: {plural(good, 'clip')}, {plural(len(bad), 'bad row')} left out:\n{listed}", file=sys.stderr)


def _write_plan(settings: config.Clips, found: list[Clip], manifest: Path, shards: Path) -> None:
    def bucket(clip: Clip) -> tuple[float, int, int, str]:
        return settings.duration_near(clip.duration), clip.height, clip.width, clip.split

    record = manifest.with_name("plan.json")
    earlier, following = _earlier_plan(manifest, record)
    by_id = {clip.clip_id: clip for clip in found}
    members: dict[int, list[Clip]] = {}
    for name, (shard, split) in earlier.items():
        if name in by_id and by_id[name].split == split:
            some = members.setdefault(shard, [])
            if not some or bucket(some[0]) == bucket(by_id[name]):
                some.append(replace(by_id.pop(name), shard=shard))
    new: dict[tuple[float, int, int, str], list[Clip]] = {}
    for clip in by_id.values():
        new.setdefault(bucket(clip), []).append(clip)
    for some in new.values():
        for first in range(0, len(some), settings.shard_size):
            part = some[first : first + settings.shard_size]
            members[following] = [replace(clip, shard=following) for clip in part]
            following += 1
    plan = [clip for some in members.values() for clip in some]
    following = max([following, *(shard + 1 for shard in members)])
    # The record first: a crash in between leaves a plan that the next run repeats, never one it contradicts.
    write_json(record, {"next": following, "clips": [[clip.clip_id, clip.shard, clip.split] for clip in plan]})
    write_manifest(manifest, plan)
    write_json(
        shards,
        {
            f"{shard:05d}": {
                "clips": len(some),
                "digest": shard_digest(some),
                **dict(zip(("duration", "height", "width", "split"), bucket(some[0]), strict=True)),
            }
            for shard, some in members.items()
        },
    )


def _earlier_plan(manifest: Path, record: Path) -> tuple[dict[str, tuple[int, str]], int]:
    """Shard and split by clip id in the order of an earlier plan, and the first shard number never used.

    A plan from before there were splits names none: its clips are training clips.
    """
    if record.is_file():
        plan = read_json(record)
        try:
            earlier = {str(name): (int(shard), *(split or [TRAIN])) for name, shard, *split in plan["clips"]}
            return earlier, int(plan["next"])
        except (KeyError, TypeError, ValueError) as error:
            raise VLFMError(f"{record} is no shard plan ({error}); restore it, or remove it and all shards") from error
    if manifest.is_file():
        clips = read_manifest(manifest)
        earlier = {clip.clip_id: (clip.shard, clip.split) for clip in clips}
        return earlier, max((clip.shard for clip in clips), default=-1) + 1
    return {}, 0
