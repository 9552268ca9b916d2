"""TFRecord files and the records in them, without TensorFlow.

A record is its length (8 bytes), a checksum of that, the data, a checksum of the data (little-endian; CRC-32C, masked).
The data are a protocol buffer, `Example` or `SequenceExample`, whose first field maps names to lists of bytes, floats
or whole numbers.
"""

import struct
from collections.abc import Collection, Iterator
from pathlib import Path

import google_crc32c

from vlfm.errors import VLFMError

LONGEST = 1 << 30  # bytes of a record


def read_features(path: Path, wanted: Collection[str]) -> Iterator[tuple[int, dict[str, list]]]:
    """Some features of every record: (place from 1, name → values, bytes or ints); floats are skipped.

    Raises:
        VLFMError: no such file, no TFRecord file, or a damaged one; with the place.
    """
    for place, data in read_records(path):
        try:
            yield place, _features(data, wanted)
        except (ValueError, IndexError) as error:
            raise VLFMError(f"{path}: record {place} is no Example ({error}); fetch the file again") from None


def read_records(path: Path) -> Iterator[tuple[int, bytes]]:
    """The data of every record, with places from 1.

    Raises:
        VLFMError: no such file, no TFRecord file, or a damaged one; with the place.
    """
    try:
        with open(path, "rb") as file:
            place = 0
            while head := file.read(12):
                place += 1
                length = int.from_bytes(head[:8], "little")
                if len(head) < 12 or length > LONGEST or checksum(head[:8]) != int.from_bytes(head[8:], "little"):
                    what = "is no TFRecord file" if place == 1 else f"is damaged at record {place}"
                    raise VLFMError(f"{path} {what}; fetch it again")
                data, tail = file.read(length), file.read(4)
                if len(data) < length or checksum(data) != int.from_bytes(tail, "little"):
                    raise VLFMError(f"{path} is damaged at record {place}; fetch it again")
                yield place, data
    except OSError as error:
        raise VLFMError(f"{path} cannot be read ({error.strerror}); correct its path in clips.index") from None


def checksum(data: bytes) -> int:
    """The masked CRC-32C of TFRecord files."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _features(data: bytes, wanted: Collection[str]) -> dict[str, list]:
    """Of `Example { features: 1 }` or `SequenceExample { context: 1 }`; `Features { feature: 1, a map }`."""
    found = {}
    for number, features in _fields(data):
        if number == 1:
            for _, entry in _fields(features):
                pair = dict(_fields(entry))
                name = pair.get(1, b"")
                name = "" if isinstance(name, int) else bytes(name).decode(errors="replace")
                if name in wanted:
                    found[name] = _values(pair.get(2, b""))
    return found


def _values(feature: bytes) -> list:
    """Of `Feature { bytes_list: 1, float_list: 2, int64_list: 3 }`, each with `value: 1`."""
    values: list = []
    for kind, several in _fields(feature):
        for _, value in _fields(several):
            if kind == 1 and not isinstance(value, int):
                values.append(bytes(value))
            elif kind == 3 and isinstance(value, int):
                values.append(_signed(value))
            elif kind == 3:  # packed
                at = 0
                while at < len(value):
                    number, at = _varint(value, at)
                    values.append(_signed(number))
    return values


def _fields(data: bytes | memoryview | int) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value) of a message; a value is a whole number or bytes."""
    if isinstance(data, int):
        raise ValueError("a number where a message should be")
    data, at = memoryview(data), 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value = struct.unpack_from("<Q" if kind == 1 else "<I", data, at)[0] if at + size <= len(data) else None
            at += size
        elif kind == 2:
            size, at = _varint(data, at)
            value = data[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {kind}")
        if at > len(data) or value is None:
            raise ValueError("it is cut short")
        yield tag >> 3, value


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and the place behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than ten bytes")


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
