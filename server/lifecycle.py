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

from server.app import desk_of
from server.auth import Gatekeeper
from server.config import ServerConfig
from server.gate import refuse_head
from server.http1 import AcceptsBody, ConnectionPolicy
from server.http_server import HttpServer
from server.listen import listen, remove_stale
from server.logs import thread_stacks

if TYPE_CHECKING:
    from server.desk import Desk

log = logging.getLogger(__name__)

EX_OK, EX_ENGINE_DEAD = 0, 70
BACKLOG = 2048
KEEP_ALIVE_S = 75.0  # client pools reuse connections that have been idle for less than a minute
PATIENCE_S = 5.0  # past the drain time, before the process ends itself
OBITUARY_S = 5.0  # how long a dead engine's server still tells clients so
PULSE_S = 0.25


async def serve(
    app: Quart,
    config: ServerConfig,
    listeners: Sequence[socket.socket] | None = None,
    stop: asyncio.Event | None = None,
) -> int:
    """Serves until SIGTERM, SIGINT, `stop` or the engine's end, and returns the exit code. Closes the model.

    listeners: from `listen`, when the port was taken earlier. Raises StartupError when it cannot be had.
    """
    desk = desk_of(app)
    listeners = listeners or listen(config)
    _raise_file_limit()
    end = _End(config, stop or asyncio.Event())
    shutdown = asyncio.Event()
    http = HttpServer(app, _hypercorn(config), _policy(desk), desk.connections)
    server = asyncio.create_task(http.run(listeners, shutdown))
    watchers = [asyncio.create_task(desk.lag.watch()), asyncio.create_task(end.watch(desk))]
    try:
        with end.signals():
            await asyncio.wait([server, end.task()], return_when=asyncio.FIRST_COMPLETED)
            if not server.done():
                end.begin_countdown()
                await _finish(desk, end, config)
                shutdown.set()
            await server
    finally:
        for task in watchers:
            task.cancel()
        end.task().cancel()
        await desk.llm.close()
        end.stop_countdown()
        if config.uds is not None:
            remove_stale(Path(config.uds))
    return end.code


class _End:
    """Why and how the server ends: asked once it drains, asked twice it leaves at once."""

    def __init__(self, config: ServerConfig, asked: asyncio.Event) -> None:
        self.code = EX_OK
        self._stays_up = config.keep_alive_on_engine_death
        self._deadline_s = config.drain_timeout_s + PATIENCE_S
        self._asked, self._asked_again = asked, asyncio.Event()
        self._task = asyncio.create_task(self._asked.wait())
        self._timer: threading.Timer | None = None

    def task(self) -> asyncio.Task[bool]:
        """Done when the end was asked for."""
        return self._task

    def ask(self) -> None:
        if self._asked.is_set():
            log.warning("asked again to stop: leaving at once")
            self._asked_again.set()
        else:
            log.info("asked to stop: finishing what is running")
            self._asked.set()

    async def hurry(self) -> None:
        await self._asked_again.wait()

    async def watch(self, desk: Desk) -> None:
        """Notices that the engine is dead, tells everybody inside, and ends the server a little later."""
        while desk.llm.is_healthy:
            await asyncio.sleep(PULSE_S)
        log.error("the engine is dead; its threads:\n%s", thread_stacks())
        self.code = EX_ENGINE_DEAD
        desk.visits.fail_all()
        if not self._stays_up:
            await asyncio.sleep(OBITUARY_S)
            self._asked.set()

    def signals(self) -> _Signals:
        return _Signals(self.ask)

    def begin_countdown(self) -> None:
        self._timer = threading.Timer(self._deadline_s, os._exit, args=(self.code,))
        self._timer.daemon = True
        self._timer.start()

    def stop_countdown(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Signals:
    """Takes SIGTERM and SIGINT for as long as it is entered; gives them back after."""

    CAUGHT = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, ask: object) -> None:
        self._ask = ask
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # signals reach the main thread only; whoever runs us elsewhere stops us otherwise
        loop = asyncio.get_running_loop()
        for number in self.CAUGHT:
            self._old[number] = signal.getsignal(number)
            loop.add_signal_handler(number, self._ask)  # type: ignore[arg-type]

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number, handler in self._old.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)  # type: ignore[arg-type]


async def _finish(desk: Desk, end: _End, config: ServerConfig) -> None:
    """Ends what is running: in the drain time, or at once when asked again."""
    drain = asyncio.create_task(desk.visits.drain(config.drain_timeout_s if end.code == EX_OK else 0.0))
    hurry = asyncio.create_task(end.hurry())
    await asyncio.wait([drain, hurry], return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        drain.cancel()
        await desk.visits.drain(0.0)
    hurry.cancel()


def _hypercorn(config: ServerConfig) -> Config:
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


def _policy(desk: Desk) -> ConnectionPolicy:
    config = desk.config
    return ConnectionPolicy(
        head_timeout_s=config.head_timeout_s,
        keep_alive_s=KEEP_ALIVE_S,
        flush_s=config.send_stall_timeout_s,
        max_connections=config.max_connections,
        max_body_bytes=config.max_body_bytes,
        accepts_body=_accepts_body(desk),
    )


def _accepts_body(desk: Desk) -> AcceptsBody:
    """Whether a request's body is worth asking for."""
    gatekeeper = Gatekeeper(desk.config)

    def accepts(method: str, raw_path: bytes, headers: list[tuple[bytes, bytes]]) -> bool:
        path = unquote(raw_path.decode("ascii"))
        if refuse_head(headers, path, desk.config) is not None:
            return False
        keys = [value.decode("latin-1") for name, value in headers if name == b"authorization"]
        lengths = [value for name, value in headers if name == b"content-length"]
        is_small = not lengths or int(lengths[0]) <= desk.config.max_body_bytes
        return is_small and gatekeeper.may_pass(method, path, keys)

    return accepts


def _raise_file_limit() -> None:
    """Each connection is a file: take as many as the system gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
