"""Reads a request body as a JSON object, within limits of size, time and depth.

Quart's own get_json answers 500 to broken UTF-8 and deep nesting and lets NaN through, so it is not used.
orjson refuses NaN, infinite numbers, broken UTF-8 and lone surrogates; depth and the number of values are limited here.
Numbers with more digits than it keeps are parsed once more by `load_exact_json`, since a JSON schema may hold some.
"""

import asyncio
import gc
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import orjson
from quart import Request
from quart.wrappers.request import Body
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

from jaxserve import load_exact_json
from server.chunk_sizes import ChunkSizes
from server.config import ServerConfig
from server.errors import RETRY_AFTER_S, ApiError, reason_phrase
from server.json_nodes import MAX_SHARE_CONTAINERS, MAX_SHARE_MEMBERS, has_more_nodes

CHUNK_SIZES_KEY = "jaxserve.chunk_sizes"  # where the transport leaves a chunked body's ChunkSizes, in the scope's state
MAX_DEPTH = 128
# Numbers that orjson may change: more digits than a double has, or an exponent of three digits.
_LONG_NUMBER = re.compile(rb"[0-9.]{16,}|[0-9][eE][+-]?[0-9]{3}")
_LONGEST_MATCH = 16  # bytes from whose first one on a match can be told
_SLICE_BYTES = 1 << 16  # of a search for whose time, some milliseconds, no other thread runs


class BodyMeter:
    """Count of the bytes of all requests in memory, of all connections together, and their limit.

    A body counts from its first byte to the end of its task, because what was made of it lives as long.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def hold(self, num_bytes: int) -> None:
        """Count bytes until the current task is done. Raises RuntimeError if there is no task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a body belongs to the task that serves its request")
        self.held_bytes += num_bytes
        task.add_done_callback(lambda _: self._release(num_bytes))

    def _release(self, num_bytes: int) -> None:
        self.held_bytes -= num_bytes


def make_request_class(meter: BodyMeter) -> type[Request]:
    """Make a subclass of Quart's Request whose bodies are counted by `meter` while they are in memory.

    Above the meter's limit a body is refused with 503. A chunked one is refused with 413 as soon as its chunks announce
    more than is allowed.
    """

    class MeteredBody(Body):
        """Quart's body, counted."""

        _is_cleared = False
        chunk_sizes: ChunkSizes | None = None

        def append(self, data: bytes) -> None:
            """Take bytes from the connection; a limit that is exceeded is raised by whoever awaits the body."""
            if self._is_cleared:
                return
            announced = self.chunk_sizes.total_bytes if self.chunk_sizes is not None else 0
            if announced > (self._max_content_length or announced) and self._must_raise is None:
                self._must_raise = RequestEntityTooLarge()
                self.set_complete()
            before = len(self._data)
            super().append(data)
            meter.held_bytes += len(self._data) - before
            if meter.held_bytes > meter.limit_bytes and self._must_raise is None:
                self._must_raise = ServiceUnavailable()
                self.set_complete()

        def clear(self) -> None:
            """Free the bytes; those that still come are discarded."""
            self._is_cleared = True
            meter.held_bytes -= len(self._data)
            super().clear()

    class MeteredRequest(Request):
        """Quart's request, with a counted body."""

        body_class = MeteredBody

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            cast(MeteredBody, self.body).chunk_sizes = (self.scope.get("state") or {}).get(CHUNK_SIZES_KEY)

    return MeteredRequest


async def read_body(request: Request, config: ServerConfig, meter: BodyMeter) -> bytes:
    """Read the body of a request that says it is JSON. Its bytes are held by `meter` until the task is done.

    Raises ApiError if the body is encoded (415), has another content type (400), is larger than max_body_bytes (413),
    is not complete within body_timeout_s (408), or all bodies together are too large (503).
    """
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ApiError(415, "The body must be sent without Content-Encoding.")
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise make_validation_error(["Unsupported Media Type: Only 'application/json' is allowed"], None)
    data = await _receive_body(request, config)
    meter.hold(len(data))
    return data


def make_body_error(status: int, config: ServerConfig) -> ApiError:
    """Make the error for a body that is too late (408), too large (413), or one too many (503)."""
    close = {"Connection": "close"}
    if status == 408:
        return ApiError(408, f"The body was not complete within {config.body_timeout_s:g} s.", headers=close)
    if status == 413:
        message = f"The body is larger than the {config.max_body_bytes} bytes allowed (--max-body-bytes)."
        return ApiError(413, message, headers=close)
    message = "Too many bytes of requests are being received; please try again later."
    return ApiError(503, message, headers={**close, "Retry-After": str(RETRY_AFTER_S)})


async def _receive_body(request: Request, config: ServerConfig) -> bytes:
    try:
        async with asyncio.timeout(config.body_timeout_s):
            data = await request.body
        request.body.clear()
        return data
    except ServiceUnavailable:
        raise make_body_error(503, config) from None
    except RequestEntityTooLarge:
        raise make_body_error(413, config) from None
    except TimeoutError:
        raise make_body_error(408, config) from None
    except HTTPException as error:
        raise ApiError(
            error.code or 400, "The body could not be read.", type=reason_phrase(error.code or 400)
        ) from None


def parse_json(data: bytes, max_nodes: int) -> dict[str, Any]:
    """Parse the JSON object in `data`; of a repeated key the last value counts.

    max_nodes: most values in it, those of arrays and objects included; at most a quarter of them are members of
    objects, and an eighth arrays or objects.
    A byte order mark is ignored, as RFC 8259, section 8.1 allows: some clients of .NET and PowerShell write one.

    Raises ApiError (400) if it is no JSON object, nested deeper than MAX_DEPTH, or has too many values.
    """
    data = data.removeprefix(BOM_UTF8)
    if has_more_nodes(data, max_nodes):
        members, containers = max_nodes // MAX_SHARE_MEMBERS, max_nodes // MAX_SHARE_CONTAINERS
        reason = f"JSON has more than {max_nodes} values, {members} members, or {containers} arrays and objects"
        raise make_validation_error([f"body: {reason} (--max-json-nodes); send less at once"], "body")
    try:
        with _without_garbage_collection():
            value = orjson.loads(data)
            if _has_long_number(data):
                value = load_exact_json(data)
    except (ValueError, RecursionError) as error:
        raise make_validation_error([f"body: JSON decode error: {_decode_reason(error)}"], "body") from None
    if not isinstance(value, dict):
        raise make_validation_error(["body: Input should be a JSON object"], "body")
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise make_validation_error([f"body: JSON is nested more than {MAX_DEPTH} levels deep"], "body")
    return value


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the search for reference cycles: it would run hundreds of times while many containers are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _has_long_number(data: bytes) -> bool:
    """Tell whether there may be a number that orjson changes; other threads run between slices of a long text."""
    starts = range(0, len(data), _SLICE_BYTES)
    return any(_LONG_NUMBER.search(data, start, start + _SLICE_BYTES + _LONGEST_MATCH) for start in starts)


def make_validation_error(reasons: list[str], param: str | None) -> ApiError:
    """Make the 400 for a body that does not match its schema. At most ten of the reasons are listed."""
    count = len(reasons)
    lines = "".join(f"\n  {reason}" for reason in reasons[:10])
    message = f"{count} validation error{'' if count == 1 else 's'}:{lines}"
    return ApiError(400, message, type=reason_phrase(400), param=param)


def _decode_reason(error: Exception) -> str:
    reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
    return "a number is beyond the range of a double" if "infinity" in reason else reason


def _is_deeper(value: Any, limit: int) -> bool:
    """Tell whether JSON is nested deeper than `limit`, level by level: recursion could overflow the stack."""
    level = [value]
    for _ in range(limit):
        children = [child for node in level for child in (node.values() if isinstance(node, dict) else node)]
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True
