"""Accepts connections on listening sockets until told to stop, and then ends those that are open.

Hypercorn's own server (hypercorn/asyncio/run.py, 0.18) takes the protocol class from a name of its module, so a second
server of the process would get the first one's; and from Python 3.12 on it waits for open connections without limit.
Here every socket is counted from its accept to its close, a TLS handshake included, and a new connection above the
limit takes the place of one that has been idle for some time, so that silent clients cannot keep others out.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import AF_UNIX, IPPROTO_TCP, TCP_NODELAY, socket
from typing import Any

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import wrap_app
from quart import Quart

from server.connection import Connection
from server.http1 import LINGER_S, ConnectionPolicy
from server.listen import start_listening

log = logging.getLogger(__name__)

SHUTDOWN_GRACE_S = 3.0  # for replies that are still being written when the server ends
ACCEPT_RETRY_S = 1.0  # after an error of accept, such as too many open files
ABORT_GRACE_S = 1.0  # for requests of aborted connections to notice
REPLACEABLE_AFTER_S = 2.0  # for which a connection is idle before another may take its place
MAX_INPUT_BYTES = 64 * 1024  # that asyncio buffers for a connection before it stops reading


class HttpServer:
    """The accept loops and the open connections of one server.

    app           the application
    config        Hypercorn's settings
    policy        limits of the connections of this server
    connections   every socket that is open; the caller may count them, only this object changes them
    """

    def __init__(self, app: Quart, config: Config, policy: ConnectionPolicy, connections: set[socket]) -> None:
        self._app = app
        self._config = config
        self._policy = policy
        self._connections = connections
        self._num_excess = 0
        self._by_address: Counter[str] = Counter()
        self._idle_since_s: dict[Connection, float] = {}  # those that have been idle longest first
        self._wrapped_app = wrap_app(app, config.wsgi_max_body_size, "asgi")
        self._context = WorkerContext(None)
        self._tls = config.create_ssl_context() if config.ssl_enabled else None
        self._tasks: dict[asyncio.Task[None], Connection | None] = {}

    async def run(self, listeners: Sequence[socket], stop: asyncio.Event, on_listening: Callable[[], None]) -> None:
        """Serve on these bound sockets until `stop` is set, then close them and all connections.

        on_listening: called when clients can connect.

        Raises StartupError if another process has begun to listen at one of the addresses.
        """
        await self._app.startup()
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
        try:
            for listener in listeners:
                listener.setblocking(False)
                start_listening(listener, self._config.backlog)
                tasks.append(asyncio.create_task(self._accept(listener)))
                name = listener.getsockname()
                log.info("Running on %s", name if isinstance(name, str) else " port ".join(map(str, name[:2])))
            on_listening()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for listener in listeners:
                listener.close()
            await self._end_connections()
            await self._app.shutdown()

    async def _accept(self, listener: socket) -> None:
        """Accept connections as they come; after an error such as too many open files, go on after a pause."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, address = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # the client disconnected before it was accepted
            except OSError as error:
                log.error("cannot accept connections: %s; %d are open", error.strerror, len(self._connections))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            self._start_connection(client, address[0] if isinstance(address, tuple) else "")
            await asyncio.sleep(0)  # a long accept queue must not block the event loop

    def _start_connection(self, client: socket, address: str) -> None:
        is_excess = self._is_excess(address)
        if is_excess and self._num_excess >= self._policy.max_excess:
            client.close()
            return
        self._connections.add(client)
        self._num_excess += is_excess
        self._by_address[address] += 1
        task = asyncio.create_task(self._serve(client, is_excess))
        self._tasks[task] = None

        def forget(task: asyncio.Task[None]) -> None:
            """Remove a connection that is closed."""
            connection = self._tasks.pop(task)
            if connection is not None:
                self._idle_since_s.pop(connection, None)
            self._connections.discard(client)
            self._num_excess -= is_excess
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

        task.add_done_callback(forget)

    def _is_excess(self, address: str) -> bool:
        """Tell whether there is no place for a new connection of an address, after closing an idle one if need be."""
        if address and 0 < self._policy.max_per_address <= self._by_address[address]:
            return True
        if len(self._connections) - self._num_excess < self._policy.max_connections:
            return False
        return not self._close_longest_idle()

    def _close_longest_idle(self) -> bool:
        longest_idle, since_s = next(iter(self._idle_since_s.items()), (None, 0.0))
        if longest_idle is None or asyncio.get_running_loop().time() - since_s < REPLACEABLE_AFTER_S:
            return False
        del self._idle_since_s[longest_idle]
        longest_idle.abort()
        return True

    def _on_idle(self, connection: Connection, is_idle: bool) -> None:
        self._idle_since_s.pop(connection, None)
        if is_idle:
            self._idle_since_s[connection] = asyncio.get_running_loop().time()

    async def _serve(self, client: socket, is_excess: bool) -> None:
        try:
            reader, writer = await self._open_streams(client)
        except (OSError, ssl.SSLError):  # the client disconnected, or failed the TLS handshake
            client.close()
            return
        connection = Connection(
            self._policy, self._wrapped_app, self._config, self._context, reader, writer, self._on_idle
        )
        task = asyncio.current_task()
        if task is not None:
            self._tasks[task] = connection
        try:
            await connection.run(is_excess=is_excess)
        except Exception:
            log.exception("a connection failed")

    async def _open_streams(self, client: socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if client.family != AF_UNIX:  # asyncio sets it only for sockets that were created with IPPROTO_TCP
            client.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(MAX_INPUT_BYTES, loop)
        tls_times = {"ssl_handshake_timeout": self._policy.head_timeout_s, "ssl_shutdown_timeout": LINGER_S}
        transport, protocol = await loop.connect_accepted_socket(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop),
            client,
            ssl=self._tls,
            **(tls_times if self._tls is not None else {}),
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _end_connections(self) -> None:
        """Close idle connections, give replies SHUTDOWN_GRACE_S to be written, and abort the rest."""
        await self._context.terminated.set()
        for connection in list(self._tasks.values()):
            if connection is not None and connection.is_idle:
                connection.close()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=SHUTDOWN_GRACE_S)
        for task, connection in list(self._tasks.items()):
            if connection is not None:
                connection.abort()
            else:
                task.cancel()
        if self._tasks:  # Quart ends a request whose client has left, and forgets one whose task is cancelled
            await asyncio.wait(set(self._tasks), timeout=ABORT_GRACE_S)
        for task in list(self._tasks):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
