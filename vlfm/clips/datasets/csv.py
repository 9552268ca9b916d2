"""The user's own CSV of clips: source, start, end, caption, and perhaps split and licence.

Terms: whatever the column `licence` says. Further columns are kept in the manifest, and `where` may name them.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from vlfm.clips.index_files.csv_files import make_rows
from vlfm.clips.index_files.rows import Bad, Request, Row, one_line, seconds_of
from vlfm.clips.locate import name_source
from vlfm.errors import BadClip
from vlfm.splits import SPLITS, TRAIN

FILES = ("*.csv",)
LICENCE = ""
REQUIRED = ("source", "start", "end", "caption")
OPTIONAL = ("split", "licence")
COLUMNS = (*REQUIRED, *OPTIONAL)
CAPTIONS = ()
OWN = frozenset(COLUMNS)


def read(request: Request) -> Iterator[Row | Bad]:
    """The rows of some CSVs; a source is relative to its CSV."""
    for path in request.files:
        yield from read_rows(path, path.name, request.captioned)


def read_rows(path: Path, file: str = "", captioned: bool = False) -> Iterator[Row | Bad]:
    """The rows of a CSV of clips; `line` counts the header as 1.

    Args:
        captioned: whether rows without a caption are given one later, and may be without.

    Raises:
        VLFMError: no such file, no UTF-8 text, no CSV, or a missing column: with its name and the names found.
    """
    advice = f"It must name {','.join(REQUIRED)}; start and end may be empty cells"
    make = partial(_row, path, file, captioned)
    yield from make_rows(path, REQUIRED, advice, "source", make, file, once=COLUMNS, lower=True, strict=True)


def _row(path: Path, file: str, captioned: bool, line: int, source: str, values: dict[str, str]) -> Row:
    if not source:
        raise BadClip(f"the source is empty; give a path, an http(s) address or package:NAME/PATH ({path.name})")
    name = name_source(source, path.parent)
    start, end = seconds_of(name, "start", values["start"]), seconds_of(name, "end", values["end"])
    if end is not None and (start or 0.0) >= end:
        raise BadClip(f"{name}: start {start or 0:g} is not before end {end:g}; correct them (seconds)")
    caption = one_line(values["caption"], name, captioned)
    split = values.get("split") or TRAIN
    if split not in SPLITS:
        raise BadClip(f"{name}: split is {split!r}; write {' or '.join(SPLITS)}, or leave the cell empty for {TRAIN}")
    return Row(
        line,
        name,
        start,
        end,
        caption,
        split,
        file=file,
        key=f"{source}\n{values['start']}\n{values['end']}",
        licence=values.get("licence", ""),
        columns=values,
        extra={name: cell for name, cell in values.items() if name not in OWN} if len(values) > 4 else {},
    )
