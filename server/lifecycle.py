"""From a bound port to the exit code: serve, notice the signal or the engine's end, drain, close.

The HTTP server runs inside this process, because this process owns the accelerator. A timer on a daemon thread ends
the process when even an orderly end takes too long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hypercorn.config import Config
from quart import Quart

from server.app import get_state
from server.auth import ApiKeyAuth
from server.config import ServerConfig
from server.http1 import AcceptsBody, ConnectionPolicy
from server.http_server import HttpServer
from server.listen import listen, remove_stale_socket
from server.logs import format_thread_stacks
from server.middleware import find_head_error

if TYPE_CHECKING:
    from server.state import ServerState

log = logging.getLogger(__name__)

EX_OK, EX_ENGINE_DEAD = 0, 70
BACKLOG = 2048
KEEP_ALIVE_S = 75.0  # client pools reuse connections that have been idle for less than a minute
EXIT_GRACE_S = 5.0  # past the drain time, before the process ends itself
DEAD_ENGINE_GRACE_S = 5.0  # how long a dead engine's server still tells clients so
HEALTH_POLL_S = 0.25


async def serve(
    app: Quart,
    config: ServerConfig,
    listeners: Sequence[socket.socket] | None = None,
    stop: asyncio.Event | None = None,
) -> int:
    """Serves until SIGTERM, SIGINT, `stop` or the engine's end, and returns the exit code. Closes the model.

    listeners: from `listen`, when the port was taken earlier. Raises StartupError when it cannot be had.
    """
    state = get_state(app)
    listeners = listeners or listen(config)
    _raise_file_limit()
    shutdown_request = _ShutdownRequest(config, stop or asyncio.Event())
    shutdown = asyncio.Event()
    http = HttpServer(app, _make_hypercorn_config(config), _make_connection_policy(state), state.connections)
    server = asyncio.create_task(http.run(listeners, shutdown))
    watchers = [asyncio.create_task(state.loop_lag.watch()), asyncio.create_task(shutdown_request.watch_engine(state))]
    try:
        with shutdown_request.handle_signals():
            await asyncio.wait([server, shutdown_request.requested()], return_when=asyncio.FIRST_COMPLETED)
            if not server.done():
                shutdown_request.start_exit_timer()
                await _drain(state, shutdown_request, config)
                shutdown.set()
            await server
    finally:
        for task in watchers:
            task.cancel()
        shutdown_request.requested().cancel()
        await state.llm.close()
        shutdown_request.stop_exit_timer()
        if config.uds is not None:
            remove_stale_socket(Path(config.uds))
    return shutdown_request.exit_code


class _ShutdownRequest:
    """Why and how the server ends: asked once it drains, asked twice it leaves at once."""

    def __init__(self, config: ServerConfig, requested: asyncio.Event) -> None:
        self.exit_code = EX_OK
        self._stays_up = config.keep_alive_on_engine_death
        self._deadline_s = config.drain_timeout_s + EXIT_GRACE_S
        self._requested, self._forced = requested, asyncio.Event()
        self._task = asyncio.create_task(self._requested.wait())
        self._timer: threading.Timer | None = None

    def requested(self) -> asyncio.Task[bool]:
        """Done when the end was asked for."""
        return self._task

    def request(self) -> None:
        if self._requested.is_set():
            log.warning("asked again to stop: leaving at once")
            self._forced.set()
        else:
            log.info("asked to stop: finishing what is running")
            self._requested.set()

    async def wait_force_stop(self) -> None:
        await self._forced.wait()

    async def watch_engine(self, state: ServerState) -> None:
        """Notices that the engine is dead, tells everybody inside, and ends the server a little later."""
        while state.llm.is_healthy:
            await asyncio.sleep(HEALTH_POLL_S)
        log.error("the engine is dead; its threads:\n%s", format_thread_stacks())
        self.exit_code = EX_ENGINE_DEAD
        state.slots.fail_all()
        if not self._stays_up:
            await asyncio.sleep(DEAD_ENGINE_GRACE_S)
            self._requested.set()

    def handle_signals(self) -> _SignalHandlers:
        return _SignalHandlers(self.request)

    def start_exit_timer(self) -> None:
        self._timer = threading.Timer(self._deadline_s, os._exit, args=(self.exit_code,))
        self._timer.daemon = True
        self._timer.start()

    def stop_exit_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _SignalHandlers:
    """Takes SIGTERM and SIGINT for as long as it is entered; gives them back after."""

    CAUGHT = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, request_shutdown: object) -> None:
        self._request_shutdown = request_shutdown
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # signals reach the main thread only; whoever runs us elsewhere stops us otherwise
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
    """Ends what is running: in the drain time, or at once when asked again."""
    drain = asyncio.create_task(
        state.slots.drain(config.drain_timeout_s if shutdown_request.exit_code == EX_OK else 0.0)
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
    settings.max_app_queue_size = 0  # a bounded queue leaves a task behind when an answer comes before the body's end
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


def _make_connection_policy(state: ServerState) -> ConnectionPolicy:
    config = state.config
    return ConnectionPolicy(
        head_timeout_s=config.head_timeout_s,
        keep_alive_s=KEEP_ALIVE_S,
        flush_s=config.send_stall_timeout_s,
        max_connections=config.max_connections,
        max_body_bytes=config.max_body_bytes,
        accepts_body=_make_accepts_body(state),
    )


def _make_accepts_body(state: ServerState) -> AcceptsBody:
    """Whether a request's body is worth asking for."""
    auth = ApiKeyAuth(state.config)

    def accepts(method: str, raw_path: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        path = unquote(raw_path.decode("ascii"))
        if find_head_error(headers, path, state.config) is not None:
            return False
        keys = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
        lengths = [value for name, value in headers if name == b"content-length"]
        is_small = not lengths or int(lengths[0]) <= state.config.max_body_bytes
        return is_small and auth.is_authorized(method, path, keys)

    return accepts


def _raise_file_limit() -> None:
    """Each connection is a file: take as many as the system gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
