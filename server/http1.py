"""HTTP/1 on top of Hypercorn, with some of its habits changed. Facts: Hypercorn 0.18, hypercorn/protocol/h11.py.

* It stops reading when a client has sent even one byte behind its request, and then does not see it leave. Here bytes
  behind a request wait in the parser's buffer (64 KiB of them, then the connection is closed) and are read on after
  the answer.
* It answers a broken request head without a body. Here it is our error object.
* It switches to HTTP/2 or WebSocket when asked, also without TLS. Here it answers in HTTP/1.1.
* It gives an unfinished head as long as an idle connection. Here a head that has begun must be complete soon.
* It asks for the body of a request that is going to be refused ("100 Continue"). Here the head is looked at first.
* It closes on a client that is still sending, and the reset that follows can destroy the answer, or the client's next
  request. Here the rest of the body is read and dropped for a moment, and if it ends in that time, the connection goes
  on.
* It waits for a chunk of any announced size. Here the request's body knows what was announced (chunk_sizes.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import h11
import orjson
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState

from server.body import CHUNK_SIZES_KEY
from server.chunk_sizes import ChunkSizes
from server.errors import ApiError, reason_phrase

MAX_PIPELINED_BYTES = 64 * 1024
LINGER_S = 1.0
AcceptsBody = Callable[[str, bytes, list[tuple[bytes, bytes]]], bool]


@dataclass(frozen=True, slots=True)
class ConnectionPolicy:
    """What holds for all connections of one server.

    head_timeout_s   A head that has begun must be complete in this time.
    keep_alive_s     A connection without a request is closed after this time.
    flush_s          After the last answer, what a client has not taken in this time is dropped.
    max_connections  Above it, a connection gets a 503 and is closed.
    max_body_bytes   A chunked body that announces more is not waited for.
    accepts_body     Whether a request with this method, path and headers may send its body.
    """

    head_timeout_s: float
    keep_alive_s: float
    flush_s: float
    max_connections: int
    max_body_bytes: int
    accepts_body: AcceptsBody


class Http1Protocol(H11Protocol):
    """The protocol of one connection; `close` and `abort` end that connection."""

    def __init__(
        self, policy: ConnectionPolicy, close: Callable[[], None], abort: Callable[[], None], *hypercorn: Any
    ) -> None:
        super().__init__(*hypercorn)
        self._policy = policy
        self._close, self._abort = close, abort
        self._parsing = asyncio.Lock()
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._chunk_sizes: ChunkSizes | None = None
        self._accepts_body = True
        self._is_lingering = False

    async def reject_connection(self) -> None:
        """Say that there are too many connections, and read no request."""
        await self._send_error_response(503)
        self._start_lingering()

    async def handle(self, event: Event) -> None:
        """Bytes from the client, or its end."""
        if isinstance(event, Closed):
            self._stop_timers()
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        if self._is_lingering:
            return
        if not self._is_paused() and not await self._track_chunks(event.data):
            return
        self.connection.receive_data(event.data)
        if self._is_paused():
            if len(self.connection.trailing_data[0]) > MAX_PIPELINED_BYTES:
                self._close()
            return
        await self._handle_events()

    async def _handle_events(self) -> None:
        """Reads as far as there is something to read; one at a time, because a recycled connection reads on by
        itself while more bytes may come."""
        async with self._parsing:
            while not self._is_lingering and not self._is_paused() and await self._handle_next_event():
                pass
        self._start_head_timer()

    async def _handle_next_event(self) -> bool:
        """One event of the parser. False: nothing more for now."""
        if self.connection.they_are_waiting_for_100_continue and self._accepts_body:
            headers = self.config.response_headers("h11")
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=headers))
        try:
            event = self.connection.next_event()
        except h11.RemoteProtocolError as error:
            await self._reject(400 if self.stream is not None else error.error_status_hint)
            return False
        if isinstance(event, h11.Request):
            await self._start_request(event)
        elif event is h11.PAUSED or event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
            return False
        elif self.stream is None:
            await self._discard_body(event)
        elif isinstance(event, h11.Data):
            await self.stream.handle(Body(stream_id=STREAM_ID, data=event.data))
        elif isinstance(event, h11.EndOfMessage):
            await self.stream.handle(EndBody(stream_id=STREAM_ID))
        return True

    async def _start_request(self, request: h11.Request) -> None:
        self._stop_timers()
        headers, method = list(request.headers), request.method.decode("ascii").upper()
        self._accepts_body = self._policy.accepts_body(method, request.target.partition(b"?")[0], headers)
        is_chunked = any(name == b"transfer-encoding" for name, _ in headers)
        self._chunk_sizes = ChunkSizes() if is_chunked else None
        await self.send(Updated(idle=False))
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=headers,
                http_version=request.http_version.decode(),
                method=method,
                raw_path=request.target,
                state=ConnectionState({**self.connection_state, CHUNK_SIZES_KEY: self._chunk_sizes}),
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()
        await self._track_chunks(self.connection.trailing_data[0])

    async def _track_chunks(self, data: bytes) -> bool:
        """Look for chunks that announce too much. False: the request was refused for its framing."""
        sizes = self._chunk_sizes
        if sizes is None or self.stream is None:
            return True
        try:
            sizes.read(data)
        except ValueError:
            await self._reject(400)
            return False
        if sizes.total_bytes > self._policy.max_body_bytes:
            self._chunk_sizes = None
            await self.stream.handle(
                Body(stream_id=STREAM_ID, data=b"")
            )  # makes the request look at what was announced
        return True

    async def _reject(self, status: int) -> None:
        """Answer what is no HTTP, if no answer has begun, and read no further."""
        if self.connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self._close()
            return
        await self._send_error_response(status)
        await self._close_stream()
        self._start_lingering()

    async def stream_send(self, event: StreamEvent) -> None:
        """A client that was not asked for its body may send it or not, so nothing can follow."""
        if self._is_lingering:
            return  # the request was refused while its route worked
        if isinstance(event, Response) and self.connection.they_are_waiting_for_100_continue:
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _maybe_recycle(self) -> None:
        """After an answer: what came behind the request is the next one."""
        if self.connection.our_state is h11.SEND_BODY:
            self._abort()  # the answer was not finished, and must not look as if it were
        await self._close_stream()
        if self._has_unread_body() and not self.context.terminated.is_set():
            self._start_lingering(is_final=self.connection.our_state is not h11.DONE)
            return
        await super()._maybe_recycle()
        if self.connection.their_state is h11.IDLE and self.connection.trailing_data[0]:
            self.task_group.spawn(self._handle_events)

    def _has_unread_body(self) -> bool:
        """The answer is complete, its request is not."""
        return self.connection.their_state is h11.SEND_BODY and self.connection.our_state is not h11.SEND_BODY

    async def _discard_body(self, event: object) -> None:
        """A piece of a body whose request has its answer. After the last one the connection is as good as new."""
        if isinstance(event, h11.EndOfMessage):
            self._stop_timers()
            await super()._maybe_recycle()

    def _start_lingering(self, is_final: bool = True) -> None:
        """Reads on for a moment. forever: there is no way back, whatever still comes."""
        self._stop_timers()
        self._is_lingering = is_final
        self._linger_timer = asyncio.get_running_loop().call_later(LINGER_S, self._close)

    def _is_paused(self) -> bool:
        """The request was read to its end and its answer is still being written."""
        return self.connection.their_state not in {h11.IDLE, h11.SEND_BODY}

    async def _send_error_response(self, status_code: int) -> None:
        kind = reason_phrase(status_code)
        messages = {431: "The request head is too large.", 503: "Too many connections; please try again later."}
        message = messages.get(status_code, "The request is not valid HTTP/1.1.")
        body = orjson.dumps(ApiError(status_code, message, type=kind).body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
            *([(b"retry-after", b"1")] if status_code == 503 else []),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    def _start_head_timer(self) -> None:
        """Starts the clock when part of a head is here and the rest is not."""
        begun = self.stream is None and not self._is_lingering and bool(self.connection.trailing_data[0])
        if begun and self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(self._policy.head_timeout_s, self._close)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._linger_timer = None
