"""Arrays as bytes, and what is refused."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def with_header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "text", ["-" * 9900 + "1", "(" * 9000, "{[]: 1}", "{1: 2, 'descr': 3}", "{'descr': (\n", "+".join("1" * 4500)]
)
def test_a_header_that_breaks_its_parser_is_refused(text):
    with pytest.raises(VLFMError, match="its header cannot be read"):
        load_npy(with_header(text), "x")


def test_a_shape_of_truths_is_refused():
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}"
    with pytest.raises(VLFMError, match="its shape is"):
        load_npy(with_header(header) + bytes(4), "x")


@given(st.data())
def test_damaged_bytes_are_refused_or_read_and_nothing_else(data):
    damaged = bytearray(npy_bytes(np.arange(12.0).reshape(3, 4)))
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        assert load_npy(bytes(damaged), "x").nbytes <= len(damaged)
    except VLFMError as error:
        assert "not a plain npy array" in str(error)


@pytest.mark.parametrize("data", hostile())
def test_npy_that_is_none_is_refused_without_taking_its_memory(data):
    with pytest.raises(VLFMError, match="x is not a plain npy array"):
        load_npy(data, "x")
