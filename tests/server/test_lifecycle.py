"""The life of a server: ports, signals, draining and a dead engine."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from server import lifecycle
from server.app import create_app
from server.config import ServerConfig
from server.lifecycle import listen, serve
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT
from tests.server.live_server import LiveServer, RawConnection, get, post, serve_live

PATH = "/v1/chat/completions"
STREAM = {**CHAT, "stream": True}
ROOT = Path(__file__).parents[2]


async def test_a_unix_socket_will_do(tmp_path):
    config = ServerConfig(uds=str(tmp_path / "socket"))
    listeners = listen(config)
    listeners[0].listen()
    stop = asyncio.Event()
    server = asyncio.create_task(serve(create_app(FakeLLM(), config), config, listeners, stop))
    peer = RawConnection(*await asyncio.open_unix_connection(config.uds))
    await peer.send(get("/load"))
    assert await peer.read_reply() == (200, b'{"server_load":0}')
    peer.writer.close()
    stop.set()
    assert await server == 0
    assert not Path(config.uds).exists()


@asynccontextmanager
async def process(is_held: bool, drain_s: float, max_files: int = 0, hang: str = ""):
    """A server process that listens, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(port), str(int(is_held)), str(drain_s), str(max_files), hang]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.server.fake_server", *words, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield child, port
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@asynccontextmanager
async def connected(port: int):
    """A connection to a server that is about to listen."""
    while True:
        try:
            peer = RawConnection(*await asyncio.open_connection("127.0.0.1", port))
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.02)
    try:
        yield peer
    finally:
        peer.writer.close()
        with suppress(ConnectionError):
            await peer.writer.wait_closed()


async def test_clients_cannot_use_up_a_low_limit_of_open_files():
    async with asyncio.timeout(30), process(False, drain_s=0, max_files=64) as (_, port), AsyncExitStack() as stack:
        async with connected(port) as first:
            await first.send(get("/version", "Connection: close"))
            assert (await first.read_reply())[0] == 200
        for _ in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
        status = 0
        while status != 200:  # one that is closed at once, because too many are being refused, reads nothing
            async with connected(port) as probe:
                with suppress(OSError, EOFError):
                    await probe.send(get("/health"))
                    status = (await probe.read_reply())[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_to_an_idle_server_ends_it_with_0_and_frees_the_port(number):
    async with asyncio.timeout(30), process(is_held=False, drain_s=30) as (child, port), connected(port) as idle:
        await idle.send(post(PATH, CHAT))
        assert (await idle.read_reply())[0] == 200
        child.send_signal(number)
        assert await child.wait() == 0
        listen(ServerConfig(host="127.0.0.1", port=port))[0].close()


async def test_what_does_not_finish_in_the_drain_time_is_told_so():
    async with (
        asyncio.timeout(30),
        process(is_held=True, drain_s=0.5) as (child, port),
        connected(port) as stream,
        connected(port) as whole,
        connected(port) as late,
    ):
        await stream.send(post(PATH, STREAM))
        await stream.read_until(b'"content":"a"')
        await whole.send(post(PATH, CHAT))
        await late.send(get("/health"))
        assert (await late.read_reply())[0] == 200
        child.send_signal(signal.SIGTERM)
        while (await _ask(late, get("/health")))[0] != 503:
            pass
        assert (await _ask(late, post(PATH, CHAT)))[0] == 503
        assert (await _ask(late, get("/live")))[0] == 200
        assert b'"code":503}}\n\ndata: [DONE]\n\n' in (await stream.read_until(b"[DONE]\n\n")).replace(b"\r\n", b"")
        assert (await whole.read_reply())[0] == 503
        assert await child.wait() == 0


async def _ask(peer: RawConnection, request: bytes) -> tuple[int, bytes]:
    await peer.send(request)
    return await peer.read_reply()


async def test_a_second_signal_leaves_at_once():
    async with (
        asyncio.timeout(30),
        process(is_held=True, drain_s=600) as (child, port),
        connected(port) as stream,
        connected(port) as probe,
    ):
        await stream.send(post(PATH, STREAM))
        await stream.read_until(b'"content":"a"')
        child.send_signal(signal.SIGTERM)
        while (await _ask(probe, get("/health")))[0] != 503:
            pass
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0


async def test_a_shutdown_that_hangs_is_ended_by_the_timer():
    async with asyncio.timeout(30), process(False, drain_s=0.1, hang="close") as (child, port), connected(port) as peer:
        await peer.send(get("/live"))
        assert (await peer.read_reply())[0] == 200
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0


async def test_a_dead_engine_that_cannot_be_closed_ends_the_process_with_70():
    async with (
        asyncio.timeout(30),
        process(False, drain_s=600, hang="engine") as (child, port),
        connected(port) as peer,
    ):
        assert (await _ask(peer, post(PATH, CHAT)))[0] == 200
        assert await child.wait() == 70


def test_a_dead_engine_has_ten_seconds_to_end_the_process():
    assert lifecycle.HEALTH_POLL_S + lifecycle.DEAD_ENGINE_EXIT_S < 10
    assert lifecycle.HEALTH_POLL_S < 1 and lifecycle.DEAD_ENGINE_GRACE_S + lifecycle.HEALTH_POLL_S < 10


async def test_what_finishes_in_time_is_whole():
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 1
    async with (
        serve_live(llm, drain_timeout_s=30) as live_server,
        live_server.connection() as peer,
        asyncio.timeout(30),
    ):
        await peer.send(post(PATH, STREAM))
        await peer.read_until(b'"content":"a"')
        os.kill(os.getpid(), signal.SIGTERM)
        while not live_server.slots.is_draining:
            await asyncio.sleep(0)
        llm.release.set()
        assert b'"finish_reason":"stop"' in await peer.read_until(b"[DONE]\n\n")
        await llm.wait_until(lambda llm: llm.is_closed)


async def test_what_a_pause_has_stopped_is_finished_when_a_signal_comes():
    llm = FakeLLM(["a", "b"])
    llm.hold_at = 1
    async with (
        serve_live(llm, drain_timeout_s=600, server_dev_mode=True) as live_server,
        live_server.connection() as peer,
        live_server.connection() as control,
        asyncio.timeout(30),
    ):
        await peer.send(post(PATH, STREAM))
        await peer.read_until(b'"content":"a"')
        assert (await _ask(control, post("/pause?mode=keep", {})))[0] == 200
        os.kill(os.getpid(), signal.SIGTERM)
        await llm.wait_until(lambda llm: llm.orders == ["pause", "resume"])
        assert live_server.slots.is_draining
        assert (await _ask(control, post("/pause?mode=keep", {})))[0] == 503
        llm.release.set()
        assert b'"finish_reason":"stop"' in await peer.read_until(b"[DONE]\n\n")
        await llm.wait_until(lambda llm: llm.is_closed)
    assert llm.orders == ["pause", "resume"]


class TestEngineDeath:
    @pytest.fixture(autouse=True)
    def be_quick(self, monkeypatch):
        monkeypatch.setattr(lifecycle, "HEALTH_POLL_S", 0.01)
        monkeypatch.setattr(lifecycle, "DEAD_ENGINE_GRACE_S", 0.05)

    async def dying(self, live_server: LiveServer, peer: RawConnection) -> bytes:
        await peer.send(post(PATH, STREAM))
        await peer.read_until(b'"content":"a"')
        live_server.llm.is_healthy = False
        live_server.llm.is_dead = True
        return await peer.read_until(b"[DONE]\n\n")

    async def test_everybody_is_told_and_the_exit_code_is_70(self):
        llm = FakeLLM(["a", "b"])
        llm.hold_at = 1
        config = ServerConfig(host="127.0.0.1", port=0)
        listeners = listen(config)
        port = listeners[0].getsockname()[1]
        app = create_app(llm, config)
        server = asyncio.create_task(serve(app, config, listeners))
        async with asyncio.timeout(10), connected(port) as peer:
            last = await self.dying(LiveServer(llm, app, port, config), peer)
            assert b"The server had an error while processing your request." in last
            assert await server == 70
        assert llm.is_closed

    async def test_the_server_can_stay_up_unhealthy(self):
        llm = FakeLLM(["a", "b"])
        llm.hold_at = 1
        async with serve_live(llm, keep_alive_on_engine_death=True) as live_server, live_server.connection() as peer:
            await self.dying(live_server, peer)
            assert [(await _status(live_server, path)) for path in ("/health", "/live")] == [503, 200]
            assert await _status(live_server, PATH) == 503


async def _status(live_server: LiveServer, path: str) -> int:
    async with live_server.connection() as peer:
        return (await _ask(peer, post(path, CHAT) if path == PATH else get(path)))[0]
