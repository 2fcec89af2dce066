"""TCP connections in memory: latency, bandwidth, segments, windows, half-closes and resets, in virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from socket import AF_INET
from typing import Any

HIGH_WATER, LOW_WATER = 64 * 1024, 16 * 1024  # asyncio's, of the bytes that a transport has not given to the system


@dataclass(frozen=True, slots=True)
class Link:
    """A way between a client and the server.

    latency_s       Time of a segment on its way, without its own length.
    bytes_per_s     Bandwidth in each direction.
    segment_bytes   Bytes of the longest segment; each has a random length up to it.
    window_bytes    Bytes on the way or not read, of each direction.
    """

    latency_s: float = 0.001
    bytes_per_s: float = 1e7
    segment_bytes: int = 1460
    window_bytes: int = 16 * 1024


class Transport(asyncio.Transport):
    """One end of a connection. Its protocol may come after the first bytes.

    peer     The other end.
    on_end   Called when it is closed or lost.
    """

    peer: Transport

    def __init__(self, network: Network, link: Link, extra: dict[str, Any]) -> None:
        super().__init__(extra)
        self._network, self._loop, self._link = network, network.loop, link
        self._rng = Random(f"{network.seed} {extra['number']} {extra['end']}")
        self._protocol: Any = None
        self._buffer = bytearray()
        self._arrived: deque[bytes | BaseException | None] = deque()  # None: the end of input
        self._num_unread = 0  # bytes on the way to this end, or arrived and not read
        self._last_arrival_s = 0.0
        self._is_reading = True
        self._is_writing_paused = False
        self._is_closing = self._is_lost = self._has_written_eof = self._is_reset = False
        self.on_end: Callable[[], None] = lambda: None

    def attach(self, protocol: Any) -> None:
        """Set the protocol and let it read."""
        self._protocol = protocol
        protocol.connection_made(self)
        self._loop.call_soon(self._read)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        self._loop.call_soon(self._read)

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_lost or not data:
            return
        if self._is_reset:
            self._lose(ConnectionResetError("the other end has reset the connection"))
            return
        self._buffer += data
        self._send()
        if len(self._buffer) > HIGH_WATER and not self._is_writing_paused:
            self._is_writing_paused = True
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        self._has_written_eof = True
        self._send()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._send()

    def abort(self) -> None:
        """Drop what was not sent and close, as asyncio does."""
        self._buffer.clear()
        self._is_closing = True
        self._finish()

    def reset(self) -> None:
        """Drop everything; the other end gets a reset."""
        if not self._is_lost:
            self._buffer.clear()
            self._is_closing = True
            self._send_reset()
            self._lose(None)

    def receive_reset(self) -> None:
        """Learn that the other end has reset the connection: when reading or writing, whichever comes first."""
        if self._is_lost or self._is_reset:
            return
        self._is_reset = True
        self._arrived.append(ConnectionResetError("the other end has reset the connection"))
        if self._buffer:
            self._lose(ConnectionResetError("the other end has reset the connection"))
        else:
            self._read()

    def receive(self, segment: bytes | None) -> None:
        """Take a segment, or the end of input, off the wire."""
        self._network.record(self, segment)
        if self._is_lost or self._is_reset:
            if segment is not None and not self._is_reset:  # nobody is there to read it
                self._send_reset()
            return
        self._arrived.append(segment)
        self._read()

    def _read(self) -> None:
        while self._arrived and self._is_reading and self._protocol is not None and not self._is_lost:
            item = self._arrived.popleft()
            if isinstance(item, BaseException):
                self._lose(item)
            elif self._is_closing:
                continue  # asyncio reads no more, though what was written is still sent
            elif item is None:
                if not self._protocol.eof_received():
                    self.close()
            else:
                self._num_unread -= len(item)
                self._protocol.data_received(item)
                self.peer.on_window()

    def on_window(self) -> None:
        """Send on, because the other end has read."""
        if not self._is_lost:
            self._send()

    def _send(self) -> None:
        peer, link = self.peer, self._link
        while self._buffer and peer._num_unread < link.window_bytes:
            size = min(self._rng.randint(1, link.segment_bytes), len(self._buffer))
            segment = bytes(self._buffer[:size])
            del self._buffer[:size]
            peer._num_unread += size
            self._deliver(segment, size)
        if self._is_writing_paused and len(self._buffer) < LOW_WATER:
            self._is_writing_paused = False
            self._protocol.resume_writing()
        if self._buffer:
            return
        if self._is_closing:
            self._finish()
        elif self._has_written_eof:
            self._deliver(None, 0)
            self._has_written_eof = False

    def _send_reset(self) -> None:
        self._loop.call_at(self._next_arrival_s(0), self.peer.receive_reset)

    def _deliver(self, segment: bytes | None, size: int) -> None:
        self._loop.call_at(self._next_arrival_s(size), self.peer.receive, segment)

    def _next_arrival_s(self, size: int) -> float:
        earliest_s = max(self._last_arrival_s, self._loop.time() + self._link.latency_s)
        arrival_s = earliest_s + size / self._link.bytes_per_s + 1e-8  # timers of one moment may fire in any order
        self._last_arrival_s = arrival_s
        return arrival_s

    def _finish(self) -> None:
        """Send the end of output and be gone."""
        if not self._is_lost:
            self._deliver(None, 0)
            self._lose(None)

    def _lose(self, error: BaseException | None) -> None:
        if self._is_lost:
            return
        self._is_lost = self._is_closing = True
        self._buffer.clear()
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, error)
        self.on_end()


class ServerSocket:
    """An accepted connection before it has a transport: what HttpServer uses of a socket."""

    family = AF_INET

    def __init__(self, transport: Transport, address: tuple[str, int]) -> None:
        self.transport, self.address = transport, address

    def setsockopt(self, *_: Any) -> None:
        """Options change nothing here."""

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()


class Listener:
    """A listening socket."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._backlog: deque[ServerSocket] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.is_open = False

    def setblocking(self, _: bool) -> None:
        """Nothing blocks here."""

    def listen(self, _: int) -> None:
        """Let clients connect."""
        self.is_open = True

    def getsockname(self) -> tuple[str, int]:
        """Return the address."""
        return ("10.0.0.1", 80)

    def close(self) -> None:
        """Refuse further clients and reset those that were not accepted."""
        self.is_open = False
        for client in self._backlog:
            client.transport.reset()

    def add(self, client: ServerSocket) -> None:
        """Queue a connection."""
        self._backlog.append(client)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def accept(self) -> ServerSocket:
        """Wait for a connection."""
        while not self._backlog:
            self._waiter = self._network.loop.create_future()
            await self._waiter
        return self._backlog.popleft()


class Network:
    """All connections of a simulation, old and new.

    on_segment   Called with the number of a connection, the end that receives, and the bytes (-1: the end of input).
    listener     The listener of the server; None: there is none.
    """

    def __init__(self, loop: Any, seed: int, on_segment: Callable[[int, str, int], None]) -> None:
        self.loop, self.seed, self.on_segment = loop, seed, on_segment
        self.listener: Listener | None = None

    def record(self, end: Transport, segment: bytes | None) -> None:
        """Note a delivery."""
        size = -1 if segment is None else len(segment)
        self.on_segment(end.get_extra_info("number"), end.get_extra_info("end"), size)

    async def connect(self, link: Link, address: str, number: int) -> Transport:
        """Connect to the server. number: of the connection. Raises ConnectionRefusedError if nobody listens."""
        await asyncio.sleep(2 * link.latency_s)
        listener = self.listener
        if listener is None or not listener.is_open:
            raise ConnectionRefusedError
        here, there = (address, 1024 + number), listener.getsockname()
        client = Transport(self, link, {"number": number, "end": "client", "sockname": here, "peername": there})
        server = Transport(self, link, {"number": number, "end": "server", "sockname": there, "peername": here})
        client.peer, server.peer = server, client
        listener.add(ServerSocket(server, here))
        return client
