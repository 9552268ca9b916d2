"""Looking into a folder that somebody else is writing to: what vanishes meanwhile is not there."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

READERS = 16  # files that are read at once: on a network file system each is waited for


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none where there is no folder."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return sorted(os.listdir(folder))
    return []


def changed(path: Path) -> float | None:
    """When a file changed, seconds since the epoch; None where there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.stat().st_mtime
    return None


def files_within(folder: Path, suffix: str) -> Iterator[tuple[str, float, int]]:
    """Every file below a folder with that suffix: its path relative to the folder, when it changed, its bytes."""
    waiting = [("", str(folder))]
    while waiting:
        before, place = waiting.pop()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{before}{entry.name}/", entry.path))
                elif entry.name.endswith(suffix):
                    with contextlib.suppress(FileNotFoundError):
                        about = entry.stat()
                        yield before + entry.name, about.st_mtime, about.st_size


def count_bad(ledgers: Iterable[Path]) -> dict[Path, int]:
    """Ledger → how many of its rows are bad; those that are not there are left out.

    Of a ledger without bad rows only the statistics at its end are read.
    """
    paths = list(ledgers)
    shares = [paths[first::READERS] for first in range(min(READERS, len(paths)))]
    with ThreadPoolExecutor(READERS) as readers:
        counted = [pair for pairs in readers.map(_count_share, shares) for pair in pairs]
    return {path: count for path, count in counted if count is not None}


def _count_share(paths: list[Path]) -> list[tuple[Path, int | None]]:
    return [(path, _count_bad(path)) for path in paths]


def _count_bad(path: Path) -> int | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = pq.read_metadata(path)
        place = about.schema.names.index("status")
        groups = [about.row_group(group) for group in range(about.num_row_groups)]
        spans = [group.column(place).statistics for group in groups if group.num_rows]
        if all(span is not None and span.has_min_max and span.min == span.max == "ok" for span in spans):
            return 0
        statuses = pq.read_table(path, columns=["status"])["status"].to_pylist()
        return sum(status != "ok" for status in statuses)
    except (FileNotFoundError, NotADirectoryError, ValueError, pa.ArrowInvalid):
        return None
