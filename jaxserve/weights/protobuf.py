"""Read protocol buffers without their schema: field numbers and raw values, as the wire format lays them down.

Enough for the two formats that matter here, SentencePiece models and ONNX exports, which would otherwise each need a
library of their own. Encoding: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Iterator
from typing import TypeAlias

Value: TypeAlias = int | memoryview

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10


def fields(data: bytes | memoryview) -> Iterator[tuple[int, Value]]:
    """Yield (field number, value) for every field of one message, in the order of the file.

    A varint is an int (unsigned); strings, bytes, messages and fixed-width numbers are views of their bytes.
    Raises ValueError where the bytes are no message.
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        key, at = _varint(view, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"field number 0 at byte {at}")
        if wire_type == VARINT:
            value, at = _varint(view, at)
            yield number, value
            continue
        if wire_type == BYTES:
            length, at = _varint(view, at)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {at}")
        if length > len(view) - at:
            raise ValueError(f"field {number} runs past the end, at byte {at}")
        yield number, view[at : at + length]
        at += length


def text(value: Value) -> str:
    """Return a string field. Raises ValueError for another wire type or bytes that are not UTF-8."""
    return str(_view(value, "text"), "utf-8")


def message(value: Value) -> memoryview:
    """Return the bytes of a message field. Raises ValueError for another wire type."""
    return _view(value, "a message")


def integer(value: Value) -> int:
    """Return a signed integer field (int32, int64, enum, bool). Raises ValueError for another wire type."""
    if not isinstance(value, int):
        raise ValueError("bytes where a whole number should be")
    return value - (1 << 64) if value >> 63 else value


def integers(value: Value) -> list[int]:
    """Return one entry of a repeated integer field, or all of them where they are packed. Raises ValueError."""
    if isinstance(value, int):
        return [integer(value)]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(integer(number))
    return found


def float32(value: Value) -> float:
    """Return a float field. Raises ValueError for another wire type."""
    data = _view(value, "a float")
    if len(data) != 4:
        raise ValueError(f"{len(data)} bytes where a float should be")
    return struct.unpack("<f", data)[0]


def _view(value: Value, what: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"a whole number where {what} should be")
    return value


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at this byte, and where the next field's bytes begin."""
    value = 0
    for index in range(MAX_VARINT_BYTES):
        if at + index >= len(view):
            raise ValueError("cut short inside a number")
        byte = view[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (1 << 64) - 1, at + index + 1
    raise ValueError(f"a number of more than {MAX_VARINT_BYTES} bytes at byte {at}")
