"""The HTTP/1.1 protocol of one connection: Hypercorn's, with some of its behaviour changed.

What Hypercorn 0.18 does (hypercorn/protocol/h11.py), and what is done here instead:

* It stops reading when a client has sent even one byte behind its request, and then does not notice that the client
  disconnects. Here pipelined bytes wait in the parser's buffer (at most 64 KiB, else the connection is closed) and are
  parsed after the reply.
* It answers a malformed request head without a body. Here the body is an error object.
* It switches to HTTP/2 or WebSocket when asked, also without TLS. Here it answers in HTTP/1.1.
* It gives an unfinished head as long as an idle connection. Here a head that has begun has a timeout of its own.
* It asks for the body of a request that is going to be refused ("100 Continue"). Here the head is checked first.
* It closes on a client that is still sending, and the TCP reset that follows can destroy the reply, or the client's
  next request. Here the rest of the body is read and discarded for LINGER_S, and if it ends in that time, the
  connection is used further.
* It waits for a chunk of any announced size, and takes any number of chunks. Here the request's body knows what was
  announced, and many small chunks are refused (chunk_sizes.py). The chunks of a request that is refused for its head
  are discarded without parsing, and the connection ends.
* It handles all events of a read in one turn of the event loop. Here others get a turn in between.
"""

from __future__ import annotations

import asyncio
import re
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
from server.chunk_sizes import ChunkSizes, InvalidChunks
from server.errors import ApiError, reason_phrase

MAX_PIPELINED_BYTES = 64 * 1024  # sent behind a request whose reply is not complete
LINGER_S = 1.0  # for which input is still read after a reply that ends the connection
EXCESS_TIMEOUT_S = 1.0  # in which a connection above the limit may ask for the server's health
HEALTH_PATHS = (b"/live", b"/health", b"/ping")
EVENTS_PER_TURN = 64  # of the parser, about 2 ms of the event loop
TOO_MANY_CONNECTIONS = "Too many connections; please try again later."
NO_HTTP = "The request is not valid HTTP/1.1."
# What h11 accepts and another server may read otherwise: lines that end without CR, folded lines, a list of lengths.
LENIENT_HEAD = re.compile(rb"(?<!\r)\n|\r\n[ \t]|\n(?i:content-length)[ \t]*:[^\r\n]*,")
AcceptsBody = Callable[[str, bytes, list[tuple[bytes, bytes]]], bool]


@dataclass(frozen=True, slots=True)
class ConnectionPolicy:
    """The limits of all connections of one server.

    head_timeout_s   Time in which a request head must be complete once it has begun.
    silence_s        Time after which a connection that has sent nothing is closed.
    keep_alive_s     Time after which a connection is closed that has had a reply and sends no other request.
    stall_s          Time after which a client is aborted that takes nothing of its reply.
    flush_s          Time after the last reply in which a client may still take it; the rest is discarded.
    max_connections  Number of connections above which idle ones are closed. If there are none, a new connection may
                     only ask for the server's health.
    max_excess       Number of such new connections above which others are closed at once.
    max_per_address  Number of connections of one address above which a new one is such a connection; 0: no limit.
    max_body_bytes   Size of a chunked body above which its chunks are not waited for.
    accepts_body     Function of method, target and headers that tells whether the request may send its body.
    """

    head_timeout_s: float
    silence_s: float
    keep_alive_s: float
    stall_s: float
    flush_s: float
    max_connections: int
    max_excess: int
    max_per_address: int
    max_body_bytes: int
    accepts_body: AcceptsBody


class Http1Protocol(H11Protocol):
    """The protocol of one connection; the functions `close` and `abort` end that connection.

    is_excess: there are too many connections already, and this one may only ask for the server's health.
    """

    def __init__(
        self,
        policy: ConnectionPolicy,
        close: Callable[[], None],
        abort: Callable[[], None],
        is_excess: bool,
        *hypercorn: Any,
    ) -> None:
        super().__init__(*hypercorn)
        self._policy, self._is_excess = policy, is_excess
        self._close, self._abort = close, abort
        self._parsing = asyncio.Lock()
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._chunk_sizes: ChunkSizes | None = None
        self._accepts_body = True
        self._is_lingering = False
        self._has_unread_head = False  # some of the bytes that the parser has may be of a head that was not looked at

    async def reject_connection(self) -> None:
        """Send a 503 that tells of too many connections, unless a request is being served, and read no request."""
        if self.stream is None and not self._is_lingering:
            await self._reject(503, TOO_MANY_CONNECTIONS)

    async def handle(self, event: Event) -> None:
        """Take bytes from the client, or the end of its input."""
        if isinstance(event, Closed):
            self._stop_timers()
        if not isinstance(event, RawData):
            await super().handle(event)
            return
        if self._is_lingering or self._discards_chunks():
            return
        if not self._is_paused() and not await self._track_chunks(event.data):
            return
        self.connection.receive_data(event.data)
        self._has_unread_head = self._has_unread_head or b"\n" in event.data
        if self._is_paused():
            if len(self.connection.trailing_data[0]) > MAX_PIPELINED_BYTES:
                self._close()
            return
        await self._handle_events()

    async def _handle_events(self) -> None:
        """Handle all events that the parser has.

        Under a lock, because a connection that is used for another request handles events of its own accord while more
        bytes may come.
        """
        async with self._parsing:
            num_events = 0
            while self._is_parsing() and await self._handle_next_event():
                num_events += 1
                if num_events % EVENTS_PER_TURN == 0:
                    await asyncio.sleep(0)
        self._start_head_timer()

    def _is_parsing(self) -> bool:
        return not self._is_lingering and not self._is_paused() and not self._discards_chunks()

    def _discards_chunks(self) -> bool:
        """Tell whether the request is refused for its head and has a chunked body, which has no known end."""
        return self._chunk_sizes is not None and not self._accepts_body

    async def _handle_next_event(self) -> bool:
        """Handle the parser's next event; return False if it has none at the moment."""
        if self.connection.they_are_waiting_for_100_continue and self._accepts_body:
            headers = self.config.response_headers("h11")
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=headers))
        if self._has_unread_head and self.connection.their_state is h11.IDLE:
            self._has_unread_head = False
            if LENIENT_HEAD.search(self.connection.trailing_data[0].partition(b"\r\n\r\n")[0]):
                await self._reject(400, NO_HTTP)
                return False
        try:
            event = self.connection.next_event()
        except h11.RemoteProtocolError as error:
            status = 400 if self.stream is not None else error.error_status_hint
            await self._reject(status, "The request head is too large." if status == 431 else NO_HTTP)
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
        if self._is_excess and request.target.partition(b"?")[0] not in HEALTH_PATHS:
            await self._reject(503, TOO_MANY_CONNECTIONS)
            return
        is_chunked = any(name == b"transfer-encoding" for name, _ in headers)
        if is_chunked and request.http_version == b"1.0":  # which knows no such body; a proxy may see another end
            await self._reject(400, NO_HTTP)
            return
        self._accepts_body = self._policy.accepts_body(method, request.target, headers)
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
        """Add up the announced sizes of chunks; return False if the request was rejected for its framing."""
        sizes = self._chunk_sizes
        if sizes is None or self.stream is None or not self._accepts_body:
            return True
        try:
            sizes.read(data)
        except InvalidChunks as error:
            await self._reject(400, str(error))
            return False
        if sizes.total_bytes > self._policy.max_body_bytes:
            self._chunk_sizes = None
            # An empty piece makes the request's body compare what was announced with its limit.
            await self.stream.handle(Body(stream_id=STREAM_ID, data=b""))
        return True

    async def _reject(self, status: int, message: str) -> None:
        """Answer input that is not wanted, if no reply has begun, and parse no more of it."""
        if self.connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self._close()
            return
        await self._send_error_response(status, message)
        await self._close_stream()
        self._start_lingering()

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of the reply.

        A client that was not asked for its body may send it or not, so such a reply ends the connection. So does one
        before the end of discarded chunks, and every reply of an excess connection.
        """
        if self._is_lingering:
            return  # the request was rejected while its route worked
        is_last = self._is_excess or self._discards_chunks() or self.connection.they_are_waiting_for_100_continue
        if isinstance(event, Response) and is_last:
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _maybe_recycle(self) -> None:
        """Use the connection for another request after a reply; pipelined bytes are its beginning."""
        if self.connection.our_state is h11.SEND_BODY:
            self._abort()  # an unfinished reply must not look like a complete one
        await self._close_stream()
        if self._has_unread_body() and not self.context.terminated.is_set():
            self._start_lingering(is_final=self.connection.our_state is not h11.DONE or self._discards_chunks())
            return
        self._has_unread_head = True
        await super()._maybe_recycle()
        if self.connection.their_state is h11.IDLE and self.connection.trailing_data[0]:
            self.task_group.spawn(self._handle_events)

    def _has_unread_body(self) -> bool:
        """Tell whether the reply is complete and its request is not."""
        return self.connection.their_state is h11.SEND_BODY and self.connection.our_state is not h11.SEND_BODY

    async def _discard_body(self, event: object) -> None:
        """Discard a piece of a body whose request has its reply; after the last one the connection is used further."""
        if isinstance(event, h11.EndOfMessage):
            self._stop_timers()
            await super()._maybe_recycle()

    def _start_lingering(self, is_final: bool = True) -> None:
        """Close after LINGER_S. is_final: no request can follow, whatever is still sent."""
        self._stop_timers()
        self._is_lingering = is_final
        self._linger_timer = asyncio.get_running_loop().call_later(LINGER_S, self._close)

    def _is_paused(self) -> bool:
        """Tell whether the request has been read to its end and its reply is still being written."""
        return self.connection.their_state not in {h11.IDLE, h11.SEND_BODY}

    async def _send_error_response(self, status_code: int, message: str) -> None:
        body = orjson.dumps(ApiError(status_code, message, type=reason_phrase(status_code)).body)
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
        """Start the timeout of a head of which a part is there and the rest is not."""
        has_begun = self.stream is None and not self._is_lingering and bool(self.connection.trailing_data[0])
        if has_begun and self._head_timer is None:
            self._head_timer = asyncio.get_running_loop().call_later(self._policy.head_timeout_s, self._close)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._linger_timer = None
