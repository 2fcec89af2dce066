"""Writes JSON, also that of clients, whose numbers may have more digits than orjson writes."""

from typing import Any

import orjson

from jaxserve import dump_exact_json


def encode_json(value: Any) -> bytes:
    """Return the bytes of a JSON value. Numbers keep all their digits."""
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:  # of an integer beyond 64 bits, and a LongFloat
        return dump_exact_json(value).encode()


def encode_kept_json(value: Any) -> bytes:
    """Return the bytes of a JSON value that is kept, in no more memory; orjson may return them in twenty times that."""
    return bytes(memoryview(encode_json(value)))
