"""Arrays as npy bytes, and back without pickle."""

import io
import math

import numpy as np

from vlfm.errors import VLFMError

NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npy_bytes(array: np.ndarray) -> bytes:
    """`array` in npy format."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def load_npy(data: bytes, where: str) -> np.ndarray:
    """The array in npy bytes.

    Raises:
        VLFMError: if they are not npy, would need pickle, or are not as many as their header promises: memory is
            only taken for what is there.
    """
    # Not `np.load`, which opens zip archives too and takes the memory that a header asks for.
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        if version not in NPY_HEADERS:
            raise ValueError(f"npy version {version}")
        shape, fortran, dtype = _header(version, stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which only pickle reads")
        if any(type(side) is not int for side in shape):
            raise ValueError(f"its shape is {shape}")
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
            raise ValueError(f"{len(data) - stream.tell()} bytes are not {shape} of {dtype}")
        flat = np.frombuffer(data, dtype, math.prod(shape), stream.tell()).copy()
        return flat.reshape(shape, order="F" if fortran else "C")
    except (ValueError, EOFError, OSError) as error:
        raise VLFMError(f"{where} is not a plain npy array ({error})") from error


def _header(version: tuple[int, int], stream: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        return NPY_HEADERS[version](stream)
    except Exception as error:
        # NumPy reads a header, 10,000 bytes at most, as a Python literal: of one that is none come errors of the
        # tokenizer, of types, of depth and of the parser's memory.
        raise ValueError(f"its header cannot be read: {error}") from error
