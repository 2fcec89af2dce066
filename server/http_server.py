"""Accepts connections on listening sockets until told to stop, and then ends those that are open.

Hypercorn's own server (hypercorn/asyncio/run.py, 0.18) takes the protocol class from a name of its module, so a second
server of the process would get the first one's; and from Python 3.12 on it waits for open connections without limit.
Here every socket is counted from its accept to its close, a TLS handshake included.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from socket import AF_UNIX, IPPROTO_TCP, TCP_NODELAY, socket
from typing import Any

from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.utils import wrap_app
from quart import Quart

from server.connection import Connection
from server.http1 import LINGER_S, ConnectionPolicy

log = logging.getLogger(__name__)

MAX_REJECTED_CONNECTIONS = 256  # that are being sent a 503 at one time; more are closed at once
SHUTDOWN_GRACE_S = 3.0  # for replies that are still being written when the server ends
ACCEPT_RETRY_S = 0.5  # after an error of accept, such as too many open files
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
        self._num_rejected = 0
        self._wrapped_app = wrap_app(app, config.wsgi_max_body_size, "asgi")
        self._context = WorkerContext(None)
        self._tls = config.create_ssl_context() if config.ssl_enabled else None
        self._tasks: dict[asyncio.Task[None], Connection | None] = {}

    async def run(self, listeners: Sequence[socket], stop: asyncio.Event) -> None:
        """Serve on these bound sockets until `stop` is set, then close them and all connections."""
        await self._app.startup()
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
        for listener in listeners:
            listener.setblocking(False)
            listener.listen(self._config.backlog)
            tasks.append(asyncio.create_task(self._accept(listener)))
            name = listener.getsockname()
            log.info("Running on %s", name if isinstance(name, str) else " port ".join(map(str, name[:2])))
        try:
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
                client, _ = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # the client disconnected before it was accepted
            except OSError as error:
                log.error("cannot accept connections: %s; %d are open", error.strerror, len(self._connections))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            self._start_connection(client)
            await asyncio.sleep(0)  # a long accept queue must not block the event loop

    def _start_connection(self, client: socket) -> None:
        is_excess = len(self._connections) - self._num_rejected >= self._policy.max_connections
        if is_excess and self._num_rejected >= MAX_REJECTED_CONNECTIONS:
            client.close()
            return
        self._connections.add(client)
        self._num_rejected += is_excess
        task = asyncio.create_task(self._serve(client, is_excess))
        self._tasks[task] = None

        def forget(task: asyncio.Task[None]) -> None:
            """Remove a connection that is closed."""
            del self._tasks[task]
            self._connections.discard(client)
            self._num_rejected -= is_excess

        task.add_done_callback(forget)

    async def _serve(self, client: socket, is_excess: bool) -> None:
        try:
            reader, writer = await self._open_streams(client)
        except (OSError, ssl.SSLError):  # the client disconnected, or failed the TLS handshake
            client.close()
            return
        connection = Connection(self._policy, self._wrapped_app, self._config, self._context, reader, writer)
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
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)
