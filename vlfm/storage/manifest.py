"""The manifest: every clip of a run, its caption and its shard, as parquet."""

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError
from vlfm.splits import TRAIN
from vlfm.storage.files import atomic_path
from vlfm.storage.fingerprints import fingerprint

GROUP = 8192  # clips of a row group, about: what is read for one shard, which no two row groups share


@dataclass(frozen=True)
class Clip:
    """One row of the manifest: a window of a source video and its caption.

    Attributes:
        clip_id: 16 hex digits, a hash of source, start and end; names the clip in every store.
        source: `path`, `http(s)://…`, `package:NAME/PATH` (a file inside an installed Python package),
            `zip:PATH_OR_URL!MEMBER` (the parts of a split archive joined by `|`), or
            `youtube:ID?start=SECONDS&end=SECONDS` (that section, whose start is the source's time zero).
        start, end: seconds in the source.
        caption: text.
        row: line of the index file.
        shard: index of the shard the clip lies in, frozen when the plan is made.
        height, width: of its decoded frames in pixels, the same in all clips of a shard.
        split: `train` or `test`, the same in all clips of a shard; a manifest without it holds training clips.
        dataset: the published data set it is of, "" for the user's own CSV.
        licence: terms that the index file or the data set states, may be "".
        extra: JSON text of an object, the further columns of the index file; may be "".
    """

    clip_id: str
    source: str
    start: float
    end: float
    caption: str
    row: int
    shard: int
    height: int
    width: int
    split: str = TRAIN
    dataset: str = ""
    licence: str = ""
    extra: str = ""

    @property
    def duration(self) -> float:
        """T, seconds, to a microsecond."""
        return round(self.end - self.start, 6)


def clip_id(source: str, start: float, end: float) -> str:
    """A clip's name: a hash of what it is, never of where it stands in a list."""
    return hashlib.sha256(f"{source}\n{start:.6f}\n{end:.6f}".encode()).hexdigest()[:16]


def manifest_schema():
    """The columns of a manifest, as a pyarrow schema: the fields of `Clip`."""
    import pyarrow as pa

    kinds = {str: pa.string(), float: pa.float64(), int: pa.int32()}
    fields = [(name, kinds[kind]) for name, kind in Clip.__annotations__.items()]
    return pa.schema([(name, pa.int64() if name == "row" else kind) for name, kind in fields])


@contextlib.contextmanager
def open_manifest(path: Path | str) -> Iterator[Callable[[Any], None]]:
    """Write a manifest piece by piece, atomically: yields a function that writes a pyarrow table as one row group.

    Tables come in the order of their shards, each with whole shards: a shard is then found without reading others.
    """
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, manifest_schema()) as writer:
        yield lambda table: writer.write_table(table, row_group_size=max(1, len(table)))


def write_manifest(path: Path | str, clips: Iterable[Clip]) -> None:
    """Write the manifest (one row per `Clip`, grouped by shard) as parquet, atomically."""
    import pyarrow as pa

    def group(some: list[Clip]):
        return pa.Table.from_pylist([asdict(clip) for clip in some], schema=manifest_schema())

    with open_manifest(path) as write:
        waiting: list[Clip] = []
        for _, shard in itertools.groupby(clips, lambda clip: clip.shard):
            waiting += shard
            if len(waiting) >= GROUP:
                write(group(waiting))
                waiting = []
        if waiting:
            write(group(waiting))


def read_manifest(path: Path | str, shard: int | None = None) -> list[Clip]:
    """Read the manifest, or the clips of one shard of it, in plan order.

    Of one shard only its row group is read. A manifest from before there were data sets has none of their columns.

    Raises:
        VLFMError: if the shard is not in the plan, another version wrote it, or an id would lead out of a folder.
    """
    import pyarrow.parquet as pq

    filters = None if shard is None else [("shard", "==", shard)]
    try:
        clips = [Clip(**row) for row in pq.read_table(path, filters=filters).to_pylist()]
    except TypeError as error:
        raise VLFMError(f"{path} was written by another version ({error}); run `vlfm index` again") from None
    for clip in clips:
        if not re.fullmatch(r"[\w-]+", clip.clip_id, re.ASCII):
            raise VLFMError(
                f"{path}: the clip id {clip.clip_id!r} is no name for a file (letters, digits, _ and - only); the plan "
                "was not written by this pipeline, run `vlfm index`"
            )
    if shard is not None and not clips:
        raise VLFMError(f"shard {shard} is not in the plan {path}")
    return clips


def read_splits(path: Path | str) -> dict[str, str]:
    """Clip id → split, in plan order; nothing else of a manifest is read."""
    import pyarrow.parquet as pq

    columns = [name for name in ("clip_id", "split") if name in pq.read_schema(path).names]
    table = pq.read_table(path, columns=columns)
    ids = table["clip_id"].to_pylist()
    return dict(zip(ids, table["split"].to_pylist() if "split" in columns else itertools.repeat(TRAIN), strict=False))


def shard_digest(clips: Iterable[Clip]) -> str:
    """What a shard's content depends on; unchanged clips keep their digest when the plan grows."""
    return rows_digest([[c.clip_id, c.source, c.start, c.end, c.caption] for c in clips])


def rows_digest(rows: Sequence[Sequence[Any]]) -> str:
    """The same of rows [clip_id, source, start, end, caption]."""
    return fingerprint({"clips": rows})
