"""From index files to the manifest: rows checked, long takes cut, windows dealt out to shards.

Rows go through one by one. Of a clip that has been found only its id, its row and its bucket are in memory; the rest
waits on disk for the plan.
"""

import itertools
import json
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from vlfm import config
from vlfm.clips.datasets import caption_column, data_set, index_files
from vlfm.clips.datasets.csv import read_rows
from vlfm.clips.index.cutting import Cutter
from vlfm.clips.index.plan import deal, read_plan, write_plan
from vlfm.clips.index.row_filter import RowFilter
from vlfm.clips.index.spool import Spool
from vlfm.clips.index_files.rows import Bad, Request, Row, at_place
from vlfm.clips.index_files.videos import Videos
from vlfm.errors import BadClip, VLFMError
from vlfm.progress import Stopwatch, progress
from vlfm.splits import REMEDY, SPLITS, TRAIN
from vlfm.storage.files import write_json
from vlfm.storage.ledger import LedgerRow, open_ledger
from vlfm.storage.manifest import GROUP, clip_id, open_manifest, rows_digest
from vlfm.words import plural

DEMO = Path(__file__).parents[1] / "demo.csv"
DIGITS = Path("digits", "digits.csv")  # beside the manifest
TOLD = 20  # reasons printed; the ledger has all

# One encoder for all rows: making one takes longer than its work.
TO_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode

Bucket = tuple[float, int, int, str]  # duration, height, width, split


def build_index(clips: config.Clips, manifest: Path, ledger: Path, shards: Path) -> None:
    """Make the manifest and the frozen shard plan from `clips.index`.

    A row whose start and end are one of the durations apart is one clip. A longer row, or one with start or end left
    empty (the source's own), is cut at shot boundaries into consecutive windows, each of the longest duration that
    fits, that all take its caption. A row with an empty caption is bad, as the model learns from captions and
    `split_video` leaves them to be filled in; with `clips.captioner` its clips are captioned once they are decoded. The
    size of a clip is the one nearest to its source's aspect ratio; with more than one size, every source has to be at
    hand, and remote ones are downloaded here.

    A column `split` may say `train` or `test`, for the clips that are to be trained on and those that are not; without
    it, and where its cell is empty, they are trained on.

    Rows of published data sets are read by the modules of `vlfm.clips.datasets`; `where`, `weight`, `limit` and
    `windows` of an entry choose among them (`vlfm.clips.index.row_filter`). Rows that are not wanted are in no ledger.

    All clips of a shard have the same duration, size and split: new clips are dealt out to shards by these.

    The plan is in the index's order, and frozen. Clips of an earlier plan at the same place keep their shard, clips no
    longer listed drop out of theirs, new ones fill new shards after the last number ever given. The plan is also
    kept in `plan.json` beside the manifest, which is no output of a rule and survives its rerun. A clip leaves its
    shard and counts as new only if its split has changed, or if other settings give it another size than the rest of
    its shard.

    Args:
        clips: the settings; `clips.index` is `demo`, `moving-digits` (which `make_digits` has drawn beside the
            manifest), a CSV with the columns source, start, end, caption and perhaps split and licence, or a list of
            data sets.
        manifest: parquet, one row per clip, grouped by shard.
        ledger: parquet, one row per clip, and per row of the index that is bad, with the reason.
        shards: json, {"00000": {"clips": n, "digest": …, "duration": seconds, "height": pixels, "width": pixels,
            "split": …}, …}.

    Raises:
        VLFMError: an index file that is missing or is none, not one good row, or none to train on.
    """
    parts = _parts(clips, manifest)
    found = _Found()
    told = _Told(clips.index if isinstance(clips.index, str) else clips.data)
    cutter = Cutter(clips, manifest.parent / "sources")
    with Spool(manifest.parent) as spool:
        with open_ledger(ledger) as note:
            for part in parts:
                _read_part(part, clips, cutter, found, spool, note, told)
        told.print(len(spool))
        spool.close()
        if all(bucket[3] != TRAIN for bucket in found.kinds):
            raise VLFMError(
                f"{told.index} holds no training clip: its {plural(len(spool), 'good clip')} are for the test; {REMEDY}"
            )
        _write_plan(clips, found, spool, manifest, shards)


@dataclass(frozen=True)
class _Part:
    """One data set of the index: its name in the manifest, its rows, and which of them are wanted."""

    name: str
    rows: Iterator[Row | Bad]
    row_filter: RowFilter | None = None
    limit: int | None = None
    windows: int | None = None


def _parts(clips: config.Clips, manifest: Path) -> list[_Part]:
    if isinstance(clips.index, str):
        return [_Part("", read_rows(_csv(clips.index, manifest), captioned=clips.captioner is not None))]
    largest = max(entry.weight for entry in clips.index)
    parts = []
    for entry in clips.index:
        module = data_set(entry.dataset)
        cache = manifest.parent / "sources"
        request = Request(
            tuple(index_files(entry)),
            Videos(entry.videos),
            caption_column(entry),
            cache,
            clips.timeout,
            clips.captioner is not None,
        )
        row_filter = RowFilter(entry.dataset, entry.where, entry.weight / largest, module.COLUMNS)
        name = "" if entry.dataset == "csv" else entry.dataset
        parts.append(_Part(name, module.read(request), row_filter, entry.limit, entry.windows))
    return parts


def _csv(index: str, manifest: Path) -> Path:
    """The CSV that `clips.index` stands for."""
    if index != "moving-digits":
        return DEMO if index == "demo" else Path(index)
    path = manifest.parent / DIGITS
    if not path.exists():
        raise VLFMError(f"{path} is missing: no moving digits are drawn yet; run `vlfm make-digits --output {path}`")
    return path


class _Found:
    """What is known of the clips so far, in order: ids, buckets, and the row of each."""

    def __init__(self) -> None:
        self.ids = array("Q")
        self.buckets = array("i")
        self.kinds: dict[Bucket, int] = {}
        self._rows: dict[int, int] = {}  # id → row and file, as one number: a tuple takes three times the memory
        self._files: list[str] = []

    def add(self, name: int, bucket: Bucket, row: Row) -> None:
        """Add a clip."""
        if row.file not in self._files[-1:]:
            self._files.append(row.file)
        self.ids.append(name)
        self.buckets.append(self.kinds.setdefault(bucket, len(self.kinds)))
        self._rows[name] = (len(self._files) - 1 << 40) + row.line

    def __contains__(self, name: int) -> bool:
        return name in self._rows

    def place(self, name: int) -> str:
        """In which row a clip was found."""
        return _place("", self._files[self._rows[name] >> 40], self._rows[name] & (1 << 40) - 1)


def _place(dataset: str, file: str, line: int) -> str:
    return ", ".join(filter(None, (dataset, file, f"row {line}")))


def _read_part(
    part: _Part,
    clips: config.Clips,
    cutter: Cutter,
    found: _Found,
    spool: Spool,
    note: Callable[[LedgerRow], None],
    told: "_Told",
) -> None:
    """Read one data set to its end, or as far as its limit."""
    count, near = 0, lru_cache(4096)(clips.duration_near)
    for row in progress(part.rows, what=f"index {part.name}".strip(), unit="row"):
        watch = Stopwatch()
        try:
            if isinstance(row, Bad):
                raise BadClip(row.reason)
            if part.row_filter and not part.row_filter.wants(row):
                continue
            row = at_place(row, row.find()) if row.find else row
            fresh = _windows(row, cutter, found, part.windows)
            height, width = cutter.size(row.source, row.shown)
            extra = TO_JSON(row.extra) if row.extra else ""
            _check_text(row.caption + extra)
        except BadClip as error:
            place, reason, source = _place(part.name, row.file, row.line), _writable(str(error)), _writable(row.source)
            note(LedgerRow("", "index", "bad", f"{place}: {reason}", source, row.line, watch.seconds))
            told.add(place, reason)
            continue
        for name, start, end in fresh:
            number = int(name, 16)
            found.add(number, (near(end - start), height, width, row.split), row)
            about = (row.caption, row.line, 0, height, width, row.split, part.name, row.licence, extra)
            spool.add((name, row.source, start, end, *about))
            note(LedgerRow(name, "index", "ok", "", row.source, row.line, watch.seconds / len(fresh)))
        count += 1
        if count == part.limit:
            break


def _check_text(text: str) -> None:
    """JSON can name half a character, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadClip(f"the text holds half of a character (at {error.start}, {error.reason}); mend the row") from None


def _writable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _windows(row: Row, cutter: Cutter, found: _Found, most: int | None) -> list[tuple[str, float, float]]:
    """The clips of a row that no earlier row has: id, start and end; at least one."""
    _check_text(row.source)
    start, end = row.start, row.end
    if row.frames:
        start, end = (round(frame / cutter.fps(row.source), 6) for frame in row.frames)
    windows = _spread(cutter.windows(row.source, start, end, row.one_shot), most)
    fresh = {}
    for first, last in windows:
        name = clip_id(row.source, first, last)
        if int(name, 16) not in found:
            fresh[name] = (name, first, last)
        elif len(windows) == 1:
            raise BadClip(f"{row.source}: the same window as {found.place(int(name, 16))}; leave one of them out")
    if not fresh:
        raise BadClip(f"{row.source}: every window of it is in an earlier row; leave one of them out")
    return list(fresh.values())


def _spread(windows: Sequence, most: int | None) -> Sequence:
    """At most so many of them, the middle one or others as evenly spread."""
    if most is None or len(windows) <= most:
        return windows
    return [windows[(2 * index + 1) * len(windows) // (2 * most)] for index in range(most)]


class _Told:
    """The bad rows, as they are told to who runs it: a reason once, with how many rows have it.

    Args:
        index: what the rows are of.
    """

    def __init__(self, index: str) -> None:
        self.index = str(DEMO) if index == "demo" else index
        self._reasons: dict[str, list] = {}  # reason → the first row, how many more
        self._rows = 0

    def add(self, place: str, reason: str) -> None:
        """Add a bad row; of reasons beyond the first few only the rows are counted."""
        self._rows += 1
        if reason in self._reasons:
            self._reasons[reason][1] += 1
        elif len(self._reasons) < TOLD:
            self._reasons[reason] = [place, 0]

    def print(self, good: int) -> None:
        """Tell them on stderr.

        Raises:
            VLFMError: there is not one good clip.
        """
        lines = []
        for reason, (place, more) in self._reasons.items():
            lines.append(f"  {place} and {plural(more, 'more row')}: {reason}" if more else f"  {place}: {reason}")
        if others := self._rows - sum(1 + more for _, more in self._reasons.values()):
            lines.append(f"  … and {others} more, all in the ledger")
        listed = "\n".join(lines)
        if not good:
            raise VLFMError(f"{self.index} holds not one good clip:\n{listed or '  it has no rows, or wants none'}")
        if lines:
            print(
                f"{self.index}: {plural(good, 'clip')}, {plural(self._rows, 'bad row')} left out:\n{listed}",
                file=sys.stderr,
            )


def _write_plan(settings: config.Clips, found: _Found, spool: Spool, manifest: Path, shards: Path) -> None:
    record = manifest.with_name("plan.json")
    buckets = np.asarray(found.buckets, np.int64)
    kinds = list(found.kinds)
    splits = np.array([SPLITS.index(bucket[3]) for bucket in kinds], np.int8)[buckets]
    earlier = read_plan(record, manifest)
    plan, places = deal(np.asarray(found.ids, np.uint64), buckets, splits, earlier, settings.shard_size)
    # The record first: a crash in between leaves a plan that the next run repeats, never one it contradicts.
    write_plan(record, plan)
    about = {}
    with open_manifest(manifest) as write, ThreadPoolExecutor(1) as beside:
        for first, last in _groups(plan.shards):
            numbers, mine = plan.shards[first:last], places[first:last]
            table = spool.take(mine)
            writing = beside.submit(write, _with_shards(table, numbers))
            rows = [table[name].to_pylist() for name in ("clip_id", "source", "start", "end", "caption")]
            listed = list(map(list, zip(*rows, strict=True)))
            for begin, end in _shards(numbers):
                duration, height, width, split = kinds[buckets[mine[begin]]]
                about[f"{numbers[begin]:05d}"] = {
                    "clips": end - begin,
                    "digest": rows_digest(listed[begin:end]),
                    "duration": duration,
                    "height": height,
                    "width": width,
                    "split": split,
                }
            writing.result()
    write_json(shards, about)


def _shards(numbers: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of each run of the same number."""
    edges = [*np.flatnonzero(np.diff(numbers, prepend=-1)).tolist(), len(numbers)]
    return list(itertools.pairwise(edges))


def _groups(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of row groups: whole shards, enough of them to fill one."""
    begin = 0
    for _, end in _shards(numbers):
        if end - begin >= GROUP or end == len(numbers):
            yield begin, end
            begin = end


def _with_shards(table, numbers: np.ndarray):
    import pyarrow as pa

    at = table.schema.get_field_index("shard")
    return table.set_column(at, table.schema.field(at), pa.array(numbers.astype(np.int32)))
