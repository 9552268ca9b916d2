"""Which rows of a data set are wanted: by their columns, by the weight of their data set."""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vlfm.clips.index_files.rows import Row
from vlfm.errors import VLFMError


class RowFilter:
    """What a data set's entry in `clips.index` asks of a row.

    `where` names columns. [min, max], both numbers or null, is a range with its ends; any other list holds the values
    that are wanted. A row without a value, or with text where a number is asked for, is not wanted.

    `weight` mixes data sets: with w the data set's weight and m the largest of all, each of its rows is kept with
    probability w / m. Of two data sets with weights 1 and 0.5 all rows of the one are kept and half of the other's,
    whatever their sizes. Chance is the SHA-256 of the data set's name and of what it calls the row, as a number from
    0 to 1, so that a row's choice depends on nothing else: neither on the other rows, nor on where its video lies; and
    with a larger share, what was kept before is kept still. All windows of a row go the same way.

    Args:
        dataset: its name.
        where: column → bounds or values.
        share: w / m, above 0, at most 1.
        columns: the columns that rows of the data set may have.
    """

    def __init__(self, dataset: str, where: Mapping[str, Sequence[Any]], share: float, columns: Collection[str]):
        self._dataset = dataset
        self._where = {name: _condition(wanted) for name, wanted in where.items()}
        self._bound = int(share * 2**64)
        self._columns = frozenset(columns)
        self._checked = not where

    def wants(self, row: Row) -> bool:
        """Whether a row is wanted.

        Raises:
            VLFMError: `where` names an unknown column; the message lists the known ones. Raised at the first row.
        """
        if not self._checked:
            there = self._columns | row.columns.keys() | {"licence"}
            if unknown := [name for name in self._where if name not in there]:
                raise VLFMError(
                    f"`where` of {self._dataset} names {', '.join(unknown)}; its columns are {', '.join(sorted(there))}"
                )
            self._checked = True
        for name, fits in self._where.items():
            value = row.licence if name == "licence" and not row.columns.get(name) else row.columns.get(name)
            if not fits(value):
                return False
        return self._bound >= 2**64 or _chance(self._dataset, row.key) < self._bound


def _chance(dataset: str, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{dataset}\n{key}".encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _condition(wanted: Sequence[Any]):
    if len(wanted) == 2 and all(bound is None or isinstance(bound, (int, float)) for bound in wanted):
        low = -math.inf if wanted[0] is None else wanted[0]
        high = math.inf if wanted[1] is None else wanted[1]
        return lambda value: (number := _number(value)) is not None and low <= number <= high
    numbers = {float(value) for value in wanted if isinstance(value, (int, float))}
    texts = {value for value in wanted if isinstance(value, str)}
    return lambda value: value is not None and (str(value) in texts or (bool(numbers) and _number(value) in numbers))


def _number(value: Any) -> float | None:
    if isinstance(value, str) or isinstance(value, (int, float)):
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    return None
