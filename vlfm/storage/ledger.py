"""The ledger: what each stage did with each clip, and why a clip is bad, as parquet."""

import contextlib
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from vlfm.errors import VLFMError
from vlfm.storage.files import atomic_path

GROUP = 32768  # rows written at once


@dataclass(frozen=True)
class LedgerRow:
    """What one stage did with one clip (or, before a clip exists, with one row of the user's CSV).

    Attributes:
        clip_id: the clip, or "" where the row never became one.
        stage: index, decode, invert, …
        status: `ok` or `bad`.
        reason: empty when ok, else what was wrong, where, in one sentence.
        source: file or URL the clip comes from.
        row: line of the user's CSV, the header being line 1.
        seconds: wall time spent on it.
        bytes: what was written for it.
    """

    clip_id: str
    stage: str
    status: str
    reason: str = ""
    source: str = ""
    row: int = 0
    seconds: float = 0.0
    bytes: int = 0


def write_ledger(path: Path | str, rows: Iterable[LedgerRow]) -> None:
    """Write ledger rows as parquet, atomically, in the order given."""
    with open_ledger(path) as add:
        for row in rows:
            add(row)


@contextlib.contextmanager
def open_ledger(path: Path | str) -> Iterator[Callable[[LedgerRow], None]]:
    """Write a ledger row by row, atomically: yields a function that adds one; few are in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("clip_id", pa.string()),
            ("stage", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("source", pa.string()),
            ("row", pa.int64()),
            ("seconds", pa.float64()),
            ("bytes", pa.int64()),
        ]
    )
    values = operator.attrgetter(*(field.name for field in fields(LedgerRow)))
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        waiting: list[LedgerRow] = []

        def flush() -> None:
            if waiting:
                columns = zip(*map(values, waiting), strict=True)
                arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                waiting.clear()

        def add(row: LedgerRow) -> None:
            waiting.append(row)
            if len(waiting) >= GROUP:
                flush()

        yield add
        flush()


def read_ledger(path: Path | str) -> list[LedgerRow]:
    """Read the rows that `write_ledger` wrote."""
    import pyarrow.parquet as pq

    return [LedgerRow(**row) for row in pq.read_table(path).to_pylist()]


def check_share_of_bad(rows: list[LedgerRow], allowed: float, what: str, clips: int | None = None) -> None:
    """Fail a unit of work in which too much went wrong.

    Args:
        clips: how many there are, where `rows` are of some of them; the others are good.

    Raises:
        VLFMError: if more than the `allowed` share of the clips is bad, or none is good; with the first reasons.
    """
    clips = len(rows) if clips is None else clips
    bad = [row for row in rows if row.status != "ok"]
    if clips and (len(bad) > allowed * clips or len(bad) == clips):
        reasons = "\n".join(f"  {row.clip_id or f'row {row.row}'}: {row.reason}" for row in bad[:10])
        raise VLFMError(
            f"{what}: {len(bad)} of {clips} clips are bad, more than the allowed share {allowed:g} "
            f"(clips.max_bad), or none is left:\n{reasons}"
        )
