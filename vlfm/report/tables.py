"""Tables of the page: numbers rounded alike down a column, intervals beside their means."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vlfm.splits import LABELS, TRAIN, splits_met

NAMES = {
    "fps": "frames/s",
    "psnr": "PSNR (dB)",
    "psnr_paper": "the paper's PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "vmaf": "VMAF",
    "lpips": "LPIPS",
    "fvd": "FVD",
    "difference_psnr": "PSNR of changes (dB)",
    "flicker": "flicker (dB)",
    "psnr_before": "PSNR before (dB)",
    "psnr_after": "PSNR after (dB)",
    "psnr_paper_before": "the paper's, before",
    "psnr_paper_after": "the paper's, after",
    "fewer": "times fewer",
    "all": "every word",
    "caption_accuracy": "own caption nearest",
    "frechet": "Fréchet",
    "nearest": "distance to training",
    "sampling": "steps of sampling",
    "round_trip": "round trip (dB)",
    "projection_loss": "lost to the path (dB)",
    "left": "of H's energy left",
}


@dataclass(frozen=True)
class Cell:
    """What stands in a table, and the number it is sorted by (None: by its text)."""

    text: str
    value: float | None = None
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows of cells; `numeric` says which columns are numbers."""

    head: list[str]
    rows: list[list[Cell]]

    @property
    def numeric(self) -> list[bool]:
        return [all(row[place].value is not None or not row[place].text for row in self.rows) for place in self._places]

    @property
    def _places(self) -> range:
        return range(len(self.head))


def make_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table from values: numbers and their digits are found column by column; None is an empty cell."""
    rows = [list(row) for row in rows]
    columns = [_column([row[place] for row in rows]) for place in range(len(head))]
    return Table([_name(name) for name in head], [list(cells) for cells in zip(*columns, strict=True)])


def from_rows(rows: Sequence[dict[str, str]]) -> Table:
    """The table of a CSV's rows: a column X with X_low and X_high beside it becomes one, with its 95 % interval."""
    if not rows:
        return Table([], [])
    names = [name for name in rows[0] if not _is_bound(name, rows[0])]
    columns = []
    for name in names:
        bounds = [(row.get(f"{name}_low") or "", row.get(f"{name}_high") or "") for row in rows]
        columns.append(_column([row[name] for row in rows], bounds))
    return Table([_name(name) for name in names], [list(cells) for cells in zip(*columns, strict=True)])


def split_in_words(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """A CSV's rows with the column `split` as a reader is told of it; without it where all are training clips."""
    met = splits_met(row.get("split", TRAIN) for row in rows)
    if len(met) > 1:
        return [{**row, "split": LABELS.get(row["split"], row["split"])} for row in rows]
    return [{name: cell for name, cell in row.items() if name != "split"} for row in rows]


def _is_bound(name: str, row: dict[str, str]) -> bool:
    return any(name.endswith(end) and name.removesuffix(end) in row for end in ("_low", "_high"))


def _name(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _column(values: Sequence[Any], bounds: Sequence[tuple[str, str]] | None = None) -> list[Cell]:
    numbers = [_number(value) for value in values]
    if any(number is None and str(value or "") for number, value in zip(numbers, values, strict=True)):
        return [Cell("" if value is None else str(value)) for value in values]
    ends = [(_number(low), _number(high)) for low, high in bounds or [("", "")] * len(values)]
    digits = _digits([number for line in (numbers, *zip(*ends, strict=True)) for number in line if number is not None])
    cells = []
    for number, (low, high) in zip(numbers, ends, strict=True):
        interval = "" if low is None or high is None else f"{_text(low, digits)} … {_text(high, digits)}"
        cells.append(Cell("" if number is None else _text(number, digits), number, interval))
    return cells


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _digits(numbers: Sequence[float]) -> int | None:
    """Digits after the point that give the largest four in all, fewer if they are zeros; None where a column spans too
    much for that.
    """
    sizes = [abs(number) for number in numbers if number]
    if not sizes:
        return 0
    if max(sizes) / min(sizes) > 1e5 and max(sizes) > 1e3:
        return None
    digits = min(4, max(0, 3 - math.floor(math.log10(max(sizes)))))
    while digits and all(round(number, digits) == round(number, digits - 1) for number in numbers):
        digits -= 1
    return digits


def _text(number: float, digits: int | None) -> str:
    text = f"{number:.3g}" if digits is None else f"{number:.{digits}f}"
    # A rounded −0.00 is 0; a minus is longer than a hyphen.
    return (text.lstrip("-") if not float(text) else text).replace("-", "\u2212")
