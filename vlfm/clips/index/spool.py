"""Clips on disk between the reading of the index and the plan: what is too much to hold of a million."""

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from vlfm.storage.manifest import manifest_schema

BATCH = 8192  # clips


class Spool:
    """A file without a name, of which nothing is left after a kill. Clips are added in order and taken in any order.

    Args:
        folder: on the disk that it lies on.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".index-")
        self._schema = manifest_schema()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), self._schema, options=options)
        self._waiting: list[Sequence[Any]] = []
        self._count = 0

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def add(self, values: Sequence[Any]) -> None:
        """Add a clip: the values of `Clip`'s fields, in their order."""
        self._waiting.append(values)
        self._count += 1
        if len(self._waiting) == BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = zip(*self._waiting, strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self._waiting.clear()

    def close(self) -> None:
        """No more are added, and there is one at least; `take` may begin."""
        import pyarrow as pa

        if self._waiting:
            self._flush()
        self._writer.close()
        self._file.flush()
        self._batch = lru_cache(maxsize=4)(pa.ipc.open_file(pa.PythonFile(self._file, "r")).get_batch)

    def take(self, places: np.ndarray):
        """The clips at some places (in the order they were added, from 0) as a pyarrow table, in the order given."""
        import pyarrow as pa

        batches = places // BATCH
        order = np.argsort(batches, kind="stable")
        found = []
        for number in np.unique(batches):
            mine = order[np.searchsorted(batches[order], number) : np.searchsorted(batches[order], number, "right")]
            found.append(self._batch(int(number)).take(pa.array(places[mine] % BATCH)))
        back = np.empty(len(places), np.int64)
        back[order] = np.arange(len(places))
        table = pa.Table.from_batches(found, schema=self._schema)
        return table if np.array_equal(order, np.arange(len(order))) else table.take(pa.array(back))
