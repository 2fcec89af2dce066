"""The app behind a real Hypercorn on this machine, and raw sockets to talk to it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server.app import create_app, desk_of
from server.config import ServerConfig
from server.lifecycle import listen, serve
from tests.fakes_llm import FakeLLM

TIMEOUT_S = 10


@dataclass
class Wire:
    llm: FakeLLM
    app: Any
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def visits(self) -> Any:
        return desk_of(self.app).visits

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Peer"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Peer(reader, writer)
        finally:
            writer.close()


@dataclass
class Peer:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer that says how long it is."""
        async with asyncio.timeout(TIMEOUT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head.split()[1]), await self.reader.readexactly(length)

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.readuntil(text)

    async def end(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.read()

    def reset(self) -> None:
        self.writer.transport.abort()


def post(path: str, body: Any, *more: str) -> bytes:
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}", *more]
    return "\r\n".join([*head, "", ""]).encode() + data


def get(path: str, *more: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *more, "", ""]).encode()


@asynccontextmanager
async def serving(llm: FakeLLM, **config: Any) -> AsyncIterator[Wire]:
    """A server that ends with the block; what still runs in it then is told so."""
    settings = ServerConfig(host="127.0.0.1", port=0, **{"drain_timeout_s": 0, **config})
    listener = listen(settings)
    port = listener.getsockname()[1]
    app = create_app(llm, settings)
    stop = asyncio.Event()
    server = asyncio.create_task(serve(app, settings, listener, stop))
    try:
        await _until_open(port)
        yield Wire(llm, app, port)
    finally:
        stop.set()
        await server


async def _until_open(port: int) -> None:
    """The socket is bound already; connecting is refused until the server listens."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0)
        else:
            writer.close()
            return
