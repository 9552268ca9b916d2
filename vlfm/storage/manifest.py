"""The manifest: every clip of a run, its caption and its shard, as parquet."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vlfm.errors import VLFMError
from vlfm.splits import TRAIN
from vlfm.storage.files import atomic_path
from vlfm.storage.fingerprints import fingerprint


@dataclass(frozen=True)
class Clip:
    """One row of the manifest: a window of a source video and its caption.

    Attributes:
        clip_id: 16 hex digits, a hash of source, start and end; names the clip in every store.
        source: `path`, `http(s)://…` or `package:NAME/PATH` (a file inside an installed Python package).
        start, end: seconds in the source.
        caption: text.
        row: line of the user's CSV.
        shard: index of the shard the clip lies in, frozen when the plan is made.
        height, width: of its decoded frames in pixels, the same in all clips of a shard.
        split: `train` or `test`, the same in all clips of a shard; a manifest without it holds training clips.
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

    @property
    def duration(self) -> float:
        """T, seconds, to a microsecond."""
        return round(self.end - self.start, 6)


def clip_id(source: str, start: float, end: float) -> str:
    """A clip's name: a hash of what it is, never of where it stands in a list."""
    return hashlib.sha256(f"{source}\n{start:.6f}\n{end:.6f}".encode()).hexdigest()[:16]


def write_manifest(path: Path | str, clips: Iterable[Clip]) -> None:
    """Write the manifest (one row per `Clip`, grouped by shard) as parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("clip_id", pa.string()),
            ("source", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("caption", pa.string()),
            ("row", pa.int64()),
            ("shard", pa.int32()),
            ("height", pa.int32()),
            ("width", pa.int32()),
            ("split", pa.string()),
        ]
    )
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(clip) for clip in clips], schema=schema), temporary)


def read_manifest(path: Path | str, shard: int | None = None) -> list[Clip]:
    """Read the manifest, or the clips of one shard of it, in plan order.

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


def shard_digest(clips: Iterable[Clip]) -> str:
    """What a shard's content depends on; unchanged clips keep their digest when the plan grows."""
    return fingerprint({"clips": [[c.clip_id, c.source, c.start, c.end, c.caption] for c in clips]})
