"""Reader of protocol buffers without their schema: field numbers and raw values, as the wire format has them.

Enough for the two formats that matter here, SentencePiece models and ONNX exports, which would otherwise each need a
library of their own. Encoding: https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Iterator
from typing import TypeAlias

FieldValue: TypeAlias = int | memoryview

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10


def iter_fields(data: bytes | memoryview) -> Iterator[tuple[int, FieldValue]]:
    """Yield (field number, value) for every field of one message, in the order of the file.

    A varint is an int (unsigned); strings, bytes, messages and fixed-width numbers are views of their bytes.
    Raises ValueError where the bytes are no message.
    """
    view = memoryview(data)
    offset = 0
    while offset < len(view):
        key, offset = _read_varint(view, offset)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise ValueError(f"field number 0 at byte {offset}")
        if wire_type == VARINT:
            value, offset = _read_varint(view, offset)
            yield number, value
            continue
        if wire_type == BYTES:
            length, offset = _read_varint(view, offset)
        elif wire_type in (FIXED32, FIXED64):
            length = 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} at byte {offset}")
        if length > len(view) - offset:
            raise ValueError(f"field {number} runs past the end, at byte {offset}")
        yield number, view[offset : offset + length]
        offset += length


def as_text(value: FieldValue) -> str:
    """Return a string field. Raises ValueError for another wire type or bytes that are not UTF-8."""
    return str(_as_bytes(value, "text"), "utf-8")


def as_message(value: FieldValue) -> memoryview:
    """Return the bytes of a message field. Raises ValueError for another wire type."""
    return _as_bytes(value, "a message")


def as_int(value: FieldValue) -> int:
    """Return a signed integer field (int32, int64, enum, bool). Raises ValueError for another wire type."""
    if not isinstance(value, int):
        raise ValueError("bytes where a whole number should be")
    return value - (1 << 64) if value >> 63 else value


def as_ints(value: FieldValue) -> list[int]:
    """Return one entry of a repeated integer field, or all of them where they are packed. Raises ValueError."""
    if isinstance(value, int):
        return [as_int(value)]
    numbers, offset = [], 0
    while offset < len(value):
        number, offset = _read_varint(value, offset)
        numbers.append(as_int(number))
    return numbers


def as_float(value: FieldValue) -> float:
    """Return a float field. Raises ValueError for another wire type."""
    data = _as_bytes(value, "a float")
    if len(data) != 4:
        raise ValueError(f"{len(data)} bytes where a float should be")
    return struct.unpack("<f", data)[0]


def _as_bytes(value: FieldValue, expected: str) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"a whole number where {expected} should be")
    return value


def _read_varint(view: memoryview, offset: int) -> tuple[int, int]:
    """Return the number that begins at this byte, and where the next field's bytes begin."""
    value = 0
    for index in range(MAX_VARINT_BYTES):
        if offset + index >= len(view):
            raise ValueError("cut short inside a number")
        byte = view[offset + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value & (1 << 64) - 1, offset + index + 1
    raise ValueError(f"a number of more than {MAX_VARINT_BYTES} bytes at byte {offset}")
