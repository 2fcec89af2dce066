"""Requests as bytes, and one answer read back: for clients that do not keep to the rules."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

TIMEOUT_S = 120.0
LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


def request_bytes(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """Return a request with a body of a stated length, for a connection that ends after it."""
    lines = (f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", "Connection: close", *headers)
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode("utf-8", "replace") + body


def json_request(path: str, **fields: Any) -> bytes:
    """Return a request with these fields as its JSON body."""
    return request_bytes(path, json.dumps(fields).encode())


async def exchange(port: int, data: bytes) -> tuple[int, bytes]:
    """Send bytes and read one answer; return its status, 0 if the connection closed without one, and its body.

    Raises TimeoutError after TIMEOUT_S.
    """
    async with asyncio.timeout(TIMEOUT_S):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            return 0, b""
        try:
            writer.write(data)
            return await read_answer(reader, has_body=not data.startswith(b"HEAD"))
        except (ConnectionError, asyncio.IncompleteReadError):
            return 0, b""
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> tuple[int, bytes]:
    """Read one answer and return its status and its body.

    Raises IncompleteReadError if the connection ends before the answer does.
    """
    status, head = await read_head(reader)
    if not has_body or status == 204:
        return status, b""
    if length := LENGTH.search(head):
        return status, await reader.readexactly(int(length[1]))
    return status, b"".join([piece async for piece in chunks(reader)])


async def read_head(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read the head of an answer, after those with a status of 1xx; return its status and its bytes."""
    head = b"HTTP/1.1 100"
    while head.startswith(b"HTTP/1.1 1"):
        head = await reader.readuntil(b"\r\n\r\n")
    return int(head[9:12]), head


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a body in chunked transfer coding (RFC 9112, 7.1)."""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the data of each event of a stream but its last, [DONE]; several may come in one chunk."""
    rest = b""
    async for chunk in chunks(reader):
        *whole, rest = (rest + chunk).split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: {"):
                yield event[6:]
