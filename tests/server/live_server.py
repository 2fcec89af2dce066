"""A server with a FakeLLM on a real socket, and raw connections to it."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.app import create_app, get_state
from server.config import ServerConfig
from server.lifecycle import listen, serve
from tests.fake_llm import FakeLLM

TIMEOUT_S = 10
TLS = Path(__file__).parents[1] / "data" / "tls"
TLS_FILES = {"ssl_certfile": str(TLS / "certificate.pem"), "ssl_keyfile": str(TLS / "key.pem")}


@dataclass
class LiveServer:
    llm: FakeLLM
    app: Any
    port: int
    config: ServerConfig

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def slots(self) -> Any:
        return get_state(self.app).slots

    @property
    def connections(self) -> Any:
        """The sockets that the server has open."""
        return get_state(self.app).connections

    async def wait_until_closed(self) -> None:
        """Wait until the server has no socket open."""
        async with asyncio.timeout(TIMEOUT_S):
            while self.connections:
                await asyncio.sleep(0)

    async def connect(self) -> "RawConnection":
        """Connect in the way of the server's settings: TCP, TLS or Unix socket."""
        if self.config.uds is not None:
            return RawConnection(*await asyncio.open_unix_connection(self.config.uds))
        tls_context = ssl.create_default_context(cafile=self.config.ssl_certfile) if self.config.ssl_certfile else None
        return RawConnection(*await asyncio.open_connection("127.0.0.1", self.port, ssl=tls_context))

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["RawConnection"]:
        peer = await self.connect()
        try:
            yield peer
        finally:
            peer.writer.close()


@dataclass
class RawConnection:
    """One connection, over which bytes are sent and read."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_reply(self) -> tuple[int, bytes]:
        """Read the status and body of the next reply, which must have a Content-Length."""
        async with asyncio.timeout(TIMEOUT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            return int(head.split()[1]), await self.reader.readexactly(length)

    async def read_until(self, text: bytes) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.readuntil(text)

    async def read_to_end(self) -> bytes:
        """Read until the server closes."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.read()

    def abort(self) -> None:
        self.writer.transport.abort()


def post(path: str, body: Any, *more: str) -> bytes:
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(data)}", *more]
    return "\r\n".join([*head, "", ""]).encode() + data


def get(path: str, *more: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", *more, "", ""]).encode()


@asynccontextmanager
async def serve_live(llm: FakeLLM, **config: Any) -> AsyncIterator[LiveServer]:
    """Run a server for the duration of the block."""
    settings = ServerConfig(host="127.0.0.1", port=0, **{"drain_timeout_s": 0, **config})
    listeners = listen(settings)
    port = 0 if settings.uds else listeners[0].getsockname()[1]
    app = create_app(llm, settings)
    stop = asyncio.Event()
    server = asyncio.create_task(serve(app, settings, listeners, stop))
    try:
        live_server = LiveServer(llm, app, port, settings)
        await _wait_until_open(live_server)
        await live_server.wait_until_closed()
        yield live_server
    finally:
        stop.set()
        await server


async def _wait_until_open(live_server: LiveServer) -> None:
    """Wait until the server listens; its socket is bound already, but refuses connections until then."""
    while True:
        try:
            peer = await live_server.connect()
        except ConnectionRefusedError:
            await asyncio.sleep(0)
        else:
            peer.writer.close()
            return
