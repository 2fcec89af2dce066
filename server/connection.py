"""One accepted connection, which is closed as soon as its client disconnects, whatever is being served.

Hypercorn's own loop (hypercorn/asyncio/tcp_server.py, 0.18) keeps a socket whose client has disconnected until the idle
timeout, because its idle task belongs to the task group that it waits for. Here the idle timeout is a timer and the end
of input ends the connection; what else ends it closes the transport, which ends the input.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import AppWrapper, ConnectionState

from server.http1 import EXCESS_TIMEOUT_S, LINGER_S, ConnectionPolicy, Http1Protocol

MAX_READ_BYTES = 64 * 1024
STALL_CHECKS = 4  # of a client's progress, within the time in which it must read something
log = logging.getLogger(__name__)


class Connection:
    """The transport, the protocol and the idle timer of one client."""

    def __init__(
        self,
        policy: ConnectionPolicy,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_idle: Callable[[Connection, bool], None],
    ) -> None:
        """on_idle: called with this connection when it becomes idle (True), and when it no longer is (False)."""
        self._policy, self._app, self._config, self._context = policy, app, config, context
        self._reader, self._writer, self._on_idle = reader, writer, on_idle
        self._idle_timer: asyncio.TimerHandle | None = None
        self._abort_timer: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request has begun, or the last one has its reply."""
        return self._idle_timer is not None

    async def run(self, *, is_excess: bool = False) -> None:
        """Serve until the client or the server ends the connection, and the socket is closed.

        is_excess: there are too many connections already, and this one may only ask for the server's health.
        """
        loop = asyncio.get_running_loop()
        excess_timer: asyncio.TimerHandle | None = None
        try:
            async with TaskGroup(loop) as tasks:
                protocol = self._make_protocol(tasks, is_excess)
                try:
                    if is_excess:
                        excess_timer = loop.call_later(EXCESS_TIMEOUT_S, tasks.spawn, protocol.reject_connection)
                    else:
                        self._start_idle_timer(self._policy.silence_s)
                    await self._read(protocol)
                finally:
                    if excess_timer is not None:
                        excess_timer.cancel()
                    self._close_within(LINGER_S)
                    await protocol.handle(Closed())
        finally:
            self._stop_idle_timer()
            self._close_within(LINGER_S)
            with suppress(OSError):
                await self._writer.wait_closed()
            self._stop_abort_timer()

    def close(self) -> None:
        """End the connection; what has been written is still sent, if the client takes it within flush_s."""
        self._close_within(self._policy.flush_s)

    def abort(self) -> None:
        """End the connection at once; what has not been sent is discarded."""
        self._writer.transport.abort()

    async def send(self, event: Event) -> None:
        """Handle an event of the protocol: bytes for the client, the end, or a change of the idle state."""
        if isinstance(event, RawData):
            try:
                if not self._writer.is_closing():
                    self._writer.write(event.data)
                    await self._wait_for_client()
            except (OSError, RuntimeError):  # the client has disconnected
                self.abort()  # it may lack these bytes, so it must get none of those behind them
        elif isinstance(event, Closed):
            self.close()
        elif isinstance(event, Updated):
            if event.idle:
                self._start_idle_timer(self._policy.keep_alive_s)
            else:
                self._stop_idle_timer()

    async def _wait_for_client(self) -> None:
        """Wait until the client has taken enough of what was written; abort it if it takes no byte for stall_s.

        However long it needs, a client that reads is waited for.
        """
        transport, stall_s = self._writer.transport, self._policy.stall_s
        num_left, num_silent = _count_untaken_bytes(transport), 0
        while num_silent < STALL_CHECKS:
            try:
                async with asyncio.timeout(stall_s / STALL_CHECKS) as timeout:
                    await self._writer.drain()
                return
            except TimeoutError:
                if not timeout.expired():  # it is the socket's own
                    raise
            num_before, num_left = num_left, _count_untaken_bytes(transport)
            # More is progress, too: TLS has a buffer that is not counted, and the socket took from it.
            num_silent = num_silent + 1 if num_left == num_before else 0
        log.warning("a client read nothing for %g s and is cut off", stall_s)
        self.abort()

    async def _read(self, protocol: Http1Protocol) -> None:
        """Pass on what the client sends, until its input ends, it resets the connection, or the transport is closed."""
        with suppress(OSError):
            while data := await self._reader.read(MAX_READ_BYTES):
                await protocol.handle(RawData(data))

    def _make_protocol(self, tasks: TaskGroup, is_excess: bool) -> Http1Protocol:
        return Http1Protocol(
            self._policy,
            self.close,
            self.abort,
            is_excess,
            self._app,
            self._config,
            self._context,
            tasks,
            ConnectionState({}),
            self._writer.get_extra_info("ssl_object") is not None,
            _host_and_port(self._writer.get_extra_info("peername")),
            _host_and_port(self._writer.get_extra_info("sockname")),
            self.send,
        )

    def _close_within(self, seconds: float) -> None:
        self._writer.transport.close()
        self._stop_abort_timer()
        self._abort_timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _stop_abort_timer(self) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    def _start_idle_timer(self, seconds: float) -> None:
        self._stop_idle_timer()
        self._idle_timer = asyncio.get_running_loop().call_later(seconds, self.close)
        self._on_idle(self, True)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
            self._on_idle(self, False)


def _count_untaken_bytes(transport: asyncio.WriteTransport) -> int:
    """Count what has been written and the client has not taken.

    On Linux this includes the system's buffer, of up to 4 MB: a socket counts as writable only when a third of that is
    free, and until then the transport's own buffer stays as it is, however steadily the client reads.
    """
    num_bytes = transport.get_write_buffer_size()
    socket = transport.get_extra_info("socket")
    if sys.platform != "linux" or socket is None or socket.fileno() < 0:
        return num_bytes
    import fcntl
    import termios

    in_system = fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ: not yet acknowledged
    return num_bytes + int.from_bytes(in_system, sys.byteorder)


def _host_and_port(address: Any) -> tuple[str, int] | None:
    """Shorten a socket's address; None for a Unix socket, or a client that has disconnected.

    An IPv4 address on an IPv6 socket is written as IPv4.
    """
    return (address[0].removeprefix("::ffff:"), address[1]) if isinstance(address, tuple) else None
