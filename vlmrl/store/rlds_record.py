"""TFRecord files and the `tf.train.Example` in each record, without TensorFlow or protobuf.

A record is its length (uint64), the masked CRC-32C of the length, the bytes, and the masked CRC-32C of the bytes, all
little-endian (tensorflow `core/lib/io/record_writer.h`). An Example maps names to one list each of bytes, float32 or
int64 (`core/example/feature.proto`); lists may be packed or not.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
from jaxtyping import Float32, Int64

from vlmrl.errors import DataError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK = 0xA282EAD8
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""Wire types of a fixed number of bytes."""

Values = list[memoryview] | Float32[np.ndarray, " _"] | Int64[np.ndarray, " _"]
"""One feature of an Example."""


def records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the offset and the content of each record.

    Raises:
        DataError: naming file and offset, if the file is cut off or a checksum does not match.
    """
    try:
        with path.open("rb") as file:
            while file.peek(1):
                at = file.tell()
                yield at, _record(file, f"{path}, record at byte {at}")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _record(file: BinaryIO, what: str) -> bytes:
    header = _exactly(file, _HEADER.size, what)
    length, check = _HEADER.unpack(header)
    # checked first: a damaged length would ask for any amount of memory
    if masked_crc32c(header[:8]) != check:
        raise DataError(f"{what}: the checksum of its length does not match")
    content = _exactly(file, length, what)
    if masked_crc32c(content) != _FOOTER.unpack(_exactly(file, _FOOTER.size, what))[0]:
        raise DataError(f"{what}: the checksum of its {length:,} bytes does not match")
    return content


def _exactly(file: BinaryIO, count: int, what: str) -> bytes:
    found = file.read(count)
    if len(found) < count:
        raise DataError(f"{what}: the file ends after {len(found):,} of {count:,} bytes")
    return found


def masked_crc32c(content: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord stores it."""
    crc = google_crc32c.value(content)
    return (((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF


def example(content: bytes) -> dict[str, Values]:
    """Features of a `tf.train.Example` by name; bytes and floats are views of `content`.

    Raises:
        ValueError: if it is none.
    """
    found: dict[str, Values] = {}
    for features in _only(1, memoryview(content)):
        for entry in _only(1, features):
            parts = dict(_fields(entry))
            if 1 not in parts:
                raise ValueError("a feature without a name")
            found[str(parts[1], "utf-8")] = _values(parts.get(2, memoryview(b"")))
    return found


def _values(feature: memoryview) -> Values:
    # the last one counts, as in protobuf's oneof; a feature that holds none is empty
    kind, content = list(_fields(feature))[-1] if len(feature) else (1, feature)
    pieces = _only(1, content)
    if kind == 1:
        return pieces
    if kind == 2:
        return np.concatenate([np.empty(0, np.float32), *(np.frombuffer(p, "<f4") for p in pieces)])
    if kind == 3:
        return np.concatenate([np.empty(0, np.int64), *map(_varints, pieces)])
    raise ValueError(f"a list of kind {kind}, 1 (bytes), 2 (float) or 3 (int64) wanted")


def _only(number: int, message: memoryview) -> list[memoryview]:
    return [value for found, value in _fields(message) if found == number]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of a protobuf message; a varint stays encoded."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            stop = _varint(message, at)[1]
        elif wire == _BYTES:
            length, at = _varint(message, at)
            stop = at + length
        elif wire in _FIXED:
            stop = at + _FIXED[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if stop > len(message):
            raise ValueError(f"a field of {stop - at} bytes where {len(message) - at} are left")
        yield tag >> 3, message[at:stop]
        at = stop


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = 0
    for place, byte in enumerate(message[at : at + 10]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    raise ValueError(f"a number without end at byte {at}")


def _varints(content: memoryview) -> Int64[np.ndarray, " _"]:
    """Packed numbers, seven bits a byte, the last byte of each below 128."""
    raw = np.frombuffer(content, np.uint8)
    if not len(raw):
        return np.empty(0, np.int64)
    last = np.flatnonzero(raw < 128)
    first = np.concatenate([[0], last[:-1] + 1])
    if raw[-1] >= 128 or (last - first).max() >= 10:
        raise ValueError("a number without end")
    place = np.arange(len(raw)) - np.repeat(first, last - first + 1)
    parts = (raw & 127).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(parts, first).view(np.int64)
