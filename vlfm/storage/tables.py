"""Tables as CSV files."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlfm.errors import VLFMError
from vlfm.storage.files import write_bytes

Row = dict[str, Any]


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV, atomically: floats with four decimals at most, None and NaN as empty cells.

    A column for every key of any row, in the order in which they first occur.

    Raises:
        VLFMError: if there is no row.
    """
    if not rows:
        raise VLFMError(f"nothing was measured for {path}: the run has no clip that it needs")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_bytes(path, text.getvalue().encode())


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV.

    Raises:
        VLFMError: if it is missing or is not a CSV.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise VLFMError(f"{path} is missing: the stage that writes it has not run here") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise VLFMError(f"{path} is damaged ({error}); remove it and run its rule again") from None
    if any(None in row or None in row.values() for row in rows):
        raise VLFMError(f"{path} is damaged: a row has more or fewer cells than the header; run its rule again")
    return rows
