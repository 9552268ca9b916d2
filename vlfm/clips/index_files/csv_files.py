"""CSV files with a header, line by line."""

import csv
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from vlfm.clips.index_files.rows import Bad, Row
from vlfm.errors import BadClip, VLFMError

LONGEST = 1 << 24  # characters of a cell; the library's own bound is less than some published captions


def make_rows(
    path: Path,
    needed: Collection[str],
    advice: str,
    name: str,
    make: Callable[[int, str, dict[str, str]], Row],
    file: str | None = None,
    **how: Any,
) -> Iterator[Row | Bad]:
    """The rows of a CSV that `make` makes; those of which it raises `BadClip`, or whose cells do not fit, are bad.

    Args:
        needed, advice, how: of `read_csv`.
        name: the column that says what a row is of.
        make: called with the line, what the row is of, and column → cell.
        file: what rows say they are of; by default the file's name.

    Raises:
        VLFMError: as `read_csv` does.
    """
    for line, values, wrong in read_csv(path, needed, advice, **how):
        about = values.get(name, "")
        try:
            if wrong:
                raise BadClip(f"{about}: {wrong}")
            yield make(line, about, values)
        except BadClip as error:
            yield Bad(line, about, str(error), path.name if file is None else file)


def read_csv(
    path: Path,
    needed: Collection[str],
    advice: str,
    *,
    once: Collection[str] = (),
    lower: bool = False,
    strict: bool = False,
) -> Iterator[tuple[int, dict[str, str], str]]:
    """The rows of a CSV: (line, column → cell, what is wrong with it), the last "" unless the cells do not fit the
    header.

    `line` is the one the row begins at; the header is line 1. Cells are stripped, empty lines and columns without a
    name left out.

    Args:
        needed: columns that must be there.
        advice: what the message about a missing column ends with.
        once: columns that may not be there twice.
        lower: whether the header's capitals do not matter.
        strict: whether a quotation mark amid a cell is an error.

    Raises:
        VLFMError: no such file, no UTF-8 text, no CSV, or a missing column: with its name and the names found.
    """
    csv.field_size_limit(LONGEST)
    reader = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=strict)
            header = [name.strip().lower() if lower else name.strip() for name in next(reader, [])]
            if missing := [name for name in needed if name not in header]:
                raise VLFMError(
                    f"{path} has no column {', '.join(missing)}; its first line names "
                    f"{', '.join(filter(None, header)) or 'nothing'}. {advice}"
                )
            if twice := [name for name in once if header.count(name) > 1]:
                raise VLFMError(f"{path} has the column {', '.join(twice)} twice; remove one")
            unnamed = "" in header
            width = len(header)
            line = reader.line_num + 1
            for cells in reader:
                if cells:
                    values = dict(zip(header, map(str.strip, cells), strict=False))
                    wrong = ""
                    if len(cells) != width:
                        wrong = (
                            f"{len(cells)} cells where the first line of {path.name} has {width}; "
                            "put quotation marks around a caption with commas"
                        )
                    elif unnamed:
                        del values[""]
                    yield line, values, wrong
                line = reader.line_num + 1
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise VLFMError(f"{path} cannot be read ({error.strerror}); correct its path in clips.index") from None
    except UnicodeDecodeError as error:
        raise VLFMError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise VLFMError(f"{path}, line {reader.line_num}: not valid CSV ({error}); mend the line") from None
