"""The life of a server from the bound port to the exit code: serve, handle signals and a dead engine, drain, close.

The HTTP server runs inside this process, because this process owns the accelerator. A timer on a daemon thread ends
the process if an orderly shutdown takes too long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hypercorn.config import Config
from quart import Quart

from server.app import get_state
from server.config import ServerConfig
from server.file_limit import ConnectionLimits, fit_connections
from server.http1 import AcceptsBody, ConnectionPolicy
from server.http_server import HttpServer
from server.listen import listen, remove_stale_socket
from server.logs import format_thread_stacks
from server.middleware import find_head_error
from server.systemd import ServiceNotifier

if TYPE_CHECKING:
    from server.state import ServerState

log = logging.getLogger(__name__)

EX_OK, EX_ENGINE_DEAD = 0, 70
BACKLOG = 2048  # connections that the system queues before they are accepted
SILENCE_S = 10.0  # for which a new connection may send nothing
KEEP_ALIVE_S = 75.0  # client pools reuse connections that have been idle for less than a minute
EXIT_GRACE_S = 5.0  # after the drain time, before the process is ended
DEAD_ENGINE_GRACE_S = 5.0  # in which a server whose engine is dead still answers its clients with errors
DEAD_ENGINE_EXIT_S = 9.0  # after which its process is ended, whatever a stuck step still holds
HEALTH_POLL_S = 0.25  # between two checks whether the engine is alive


async def serve(
    app: Quart,
    config: ServerConfig,
    listeners: Sequence[socket.socket] | None = None,
    stop: asyncio.Event | None = None,
) -> int:
    """Serve until a signal, `stop` or the death of the engine, close the model, and return the exit code.

    listeners: bound sockets, if `listen` has been called already.

    Raises StartupError if the address cannot be bound.
    """
    state = get_state(app)
    listeners = listeners or listen(config)
    shutdown_request = _ShutdownRequest(config, stop or asyncio.Event())
    shutdown = asyncio.Event()
    http = HttpServer(
        app,
        _make_hypercorn_config(config),
        _make_connection_policy(state, fit_connections(config.max_connections)),
        state.connections,
    )
    notifier = ServiceNotifier()
    server = asyncio.create_task(http.run(listeners, shutdown, notifier.send_ready))
    watchers = [
        asyncio.create_task(state.loop_lag.watch()),
        asyncio.create_task(shutdown_request.watch_engine(state)),
        asyncio.create_task(notifier.watch(lambda: state.llm.is_healthy)),
    ]
    try:
        with shutdown_request.handle_signals():
            await asyncio.wait([server, shutdown_request.requested()], return_when=asyncio.FIRST_COMPLETED)
            if not server.done():
                notifier.send_stopping()
                shutdown_request.start_exit_timer()
                await _drain(state, shutdown_request, config)
                shutdown.set()
            await server
    finally:
        for task in watchers:
            task.cancel()
        shutdown_request.requested().cancel()
        state.reader.close()
        if state.tracer is not None:
            await asyncio.to_thread(state.tracer.close)
        await state.llm.close()
        shutdown_request.stop_exit_timer()
        if config.uds is not None:
            remove_stale_socket(Path(config.uds))
    return shutdown_request.exit_code


class _ShutdownRequest:
    """The request to end the server: the first makes it drain, a second one makes it stop at once.

    exit_code: of the process, as far as the reason to end is known.
    """

    def __init__(self, config: ServerConfig, requested: asyncio.Event) -> None:
        self.exit_code = EX_OK
        self._stays_up = config.keep_alive_on_engine_death
        self._deadline_s = config.drain_timeout_s + EXIT_GRACE_S
        self._requested, self._forced = requested, asyncio.Event()
        self._task = asyncio.create_task(self._requested.wait())
        self._timer: threading.Timer | None = None

    def requested(self) -> asyncio.Task[bool]:
        """Return the task that is done when the end has been requested."""
        return self._task

    def request(self) -> None:
        """Request the end, or, the second time, that it comes at once."""
        if self._requested.is_set():
            log.warning("asked again to stop: leaving at once")
            self._forced.set()
        else:
            log.info("asked to stop: finishing what is running")
            self._requested.set()

    async def wait_force_stop(self) -> None:
        await self._forced.wait()

    async def watch_engine(self, state: ServerState) -> None:
        """Wait for the death of the engine, fail all requests, and end the server DEAD_ENGINE_GRACE_S later.

        The process ends within DEAD_ENGINE_EXIT_S, even if a step that is stuck cannot be ended.
        """
        while not state.llm.is_dead:
            await asyncio.sleep(HEALTH_POLL_S)
        log.error("the engine is dead; its threads:\n%s", format_thread_stacks())
        self.exit_code = EX_ENGINE_DEAD
        state.slots.fail_all()
        if not self._stays_up:
            self.start_exit_timer(DEAD_ENGINE_EXIT_S)
            await asyncio.sleep(DEAD_ENGINE_GRACE_S)
            self._requested.set()

    def handle_signals(self) -> _SignalHandlers:
        return _SignalHandlers(self.request)

    def start_exit_timer(self, seconds: float | None = None) -> None:
        """End the process after so many seconds, by default the drain time and a little; a timer that runs stays."""
        if self._timer is not None:
            return
        self._timer = threading.Timer(seconds or self._deadline_s, os._exit, args=(self.exit_code,))
        self._timer.daemon = True
        self._timer.start()

    def stop_exit_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _SignalHandlers:
    """A context in which SIGTERM, SIGINT and SIGHUP request the end; afterwards their earlier handlers are restored."""

    CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self, request_shutdown: object) -> None:
        self._request_shutdown = request_shutdown
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread can handle signals; elsewhere `stop` ends the server
        loop = asyncio.get_running_loop()
        for number in self.CAUGHT:
            self._previous[number] = signal.getsignal(number)
            loop.add_signal_handler(number, self._request_shutdown)  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number, handler in self._previous.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)  # type: ignore[arg-type]


async def _drain(state: ServerState, shutdown_request: _ShutdownRequest, config: ServerConfig) -> None:
    """End the running requests: within the drain time, or at once if the end is requested again."""
    drain = asyncio.create_task(
        state.control.drain(config.drain_timeout_s if shutdown_request.exit_code == EX_OK else 0.0)
    )
    force_stop = asyncio.create_task(shutdown_request.wait_force_stop())
    await asyncio.wait([drain, force_stop], return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        drain.cancel()
        await state.slots.drain(0.0)
    force_stop.cancel()


def _make_hypercorn_config(config: ServerConfig) -> Config:
    settings = Config()
    settings.backlog = BACKLOG
    settings.max_app_queue_size = 0  # a bounded queue leaves a task behind if a reply comes before the end of the body
    settings.h11_max_incomplete_size = max(config.max_header_bytes, 64 * 1024)
    settings.alpn_protocols = ["http/1.1"]
    settings.include_server_header = False
    settings.accesslog = None
    settings.errorlog = logging.getLogger("server.http")
    settings.keyfile, settings.certfile = config.ssl_keyfile, config.ssl_certfile
    settings.ca_certs = config.ssl_ca_certs
    if config.ssl_cert_reqs:
        import ssl

        settings.verify_mode = ssl.VerifyMode(config.ssl_cert_reqs)
    if config.ssl_ciphers is not None:
        settings.ciphers = config.ssl_ciphers
    return settings


def _make_connection_policy(state: ServerState, num_connections: ConnectionLimits) -> ConnectionPolicy:
    config = state.config
    return ConnectionPolicy(
        head_timeout_s=config.head_timeout_s,
        silence_s=SILENCE_S,
        keep_alive_s=KEEP_ALIVE_S,
        stall_s=config.send_stall_timeout_s,
        flush_s=config.send_stall_timeout_s,
        max_connections=num_connections.max_connections,
        max_excess=num_connections.max_excess,
        max_per_address=config.max_connections_per_ip,
        max_body_bytes=config.max_body_bytes,
        accepts_body=_make_accepts_body(state),
    )


def _make_accepts_body(state: ServerState) -> AcceptsBody:
    """Make the function that tells whether a request's body is wanted: its head is sound, and it has a key."""
    auth = state.auth

    def accepts(method: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        """Tell whether this request may send its body."""
        raw_path, _, query = target.partition(b"?")
        if find_head_error(headers, raw_path, state.config, query) is not None:
            return False
        keys = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
        lengths = [value for name, value in headers if name == b"content-length"]
        is_small = not lengths or int(lengths[0]) <= state.config.max_body_bytes
        return is_small and auth.is_authorized(method, unquote(raw_path.decode("ascii")), keys)

    return accepts
