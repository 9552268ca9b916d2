"""Arrays as bytes, and what is refused."""

import io

import numpy as np
import pytest

from vlfm.errors import VLFMError
from vlfm.storage.npy import load_npy, npy_bytes


@pytest.mark.parametrize(
    "array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3, 2)), np.float32(2), np.zeros((0, 3))]
)
def test_npy_round_trip(array):
    again = load_npy(npy_bytes(array), "x")
    assert again.dtype == np.asarray(array).dtype and np.array_equal(again, array) and again.flags.writeable


def hostile():
    pickled, archive = io.BytesIO(), io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    np.savez(archive, a=np.arange(3))
    good = npy_bytes(np.arange(3.0))
    huge = good.replace(b"(3,), ", b"(3" + b"0" * 13 + b",), ", 1)
    negative = good.replace(b"(3,), ", b"(-1,-3), ", 1)
    return [
        pickled.getvalue(),
        archive.getvalue(),
        huge,
        negative,
        good[:-1],
        good + b"x",
        good[:20],
        b"",
        b"\x80\x04N.",
    ]


@pytest.mark.parametrize("data", hostile())
def test_npy_that_is_none_is_refused_without_taking_its_memory(data):
    with pytest.raises(VLFMError, match="x is not a plain npy array"):
        load_npy(data, "x")
