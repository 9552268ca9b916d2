"""A table of names and numbers that is far smaller than a dict: of each name a hash of eight bytes is kept."""

import hashlib
from array import array
from bisect import bisect_left

import numpy as np


class NameTable:
    """Name → number; of a name that is added twice the first number holds. `find` begins after the last `add`."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._numbers = array("i")
        self._sorted = True

    def add(self, name: str, number: int) -> None:
        """Add a name."""
        self._hashes.append(_hash(name))
        self._numbers.append(number)
        self._sorted = False

    def find(self, name: str) -> int | None:
        """The number of a name; None if it was not added."""
        if not self._sorted:
            self._sort()
        wanted = _hash(name)
        index = bisect_left(self._hashes, wanted)
        there = index < len(self._hashes) and self._hashes[index] == wanted
        return self._numbers[index] if there else None

    def _sort(self) -> None:
        order = np.argsort(np.asarray(self._hashes), kind="stable")
        self._hashes = array("Q", np.asarray(self._hashes)[order].tobytes())
        self._numbers = array("i", np.asarray(self._numbers)[order].tobytes())
        self._sorted = True


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
