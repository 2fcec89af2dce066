"""A client that disconnects at any moment leaves no open socket; and two servers of one process are independent."""

import asyncio
import gc
import os
import resource
from contextlib import AsyncExitStack
from socket import IPPROTO_TCP, TCP_NODELAY

import psutil
import pytest

from server import http1, http_server, lifecycle
from tests.fake_llm import FakeLLM
from tests.server.api import CHAT
from tests.server.live_server import TLS_FILES, LiveServer, RawConnection, get, post, serve_live

PATH = "/v1/chat/completions"
STREAM = {**CHAT, "stream": True}
CHUNKED = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
NUM_CLIENTS = {"tcp": 1000, "unix": 200, "tls": 200}


async def send_nothing(live_server: LiveServer, peer: RawConnection) -> None:
    pass


async def send_half_a_head(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(b"GET /version HTTP/1.1\r\nHost")


async def send_half_a_body(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(post(PATH, CHAT)[:-5])


async def send_half_a_chunk(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(CHUNKED.encode() + b'20\r\n{"messages":')


async def refused_before_its_body(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(post("/nowhere", CHAT)[:-5])
    assert (await peer.read_reply())[0] == 404


async def send_no_http(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(b"garbage\r\n\r\n")
    assert (await peer.read_reply())[0] == 400


async def between_requests(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(get("/live"))
    assert (await peer.read_reply())[0] == 200


async def half_a_next_head(live_server: LiveServer, peer: RawConnection) -> None:
    await between_requests(live_server, peer)
    await send_half_a_head(live_server, peer)


async def waiting(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(post(PATH, CHAT))


async def streaming(live_server: LiveServer, peer: RawConnection) -> None:
    await peer.send(post(PATH, STREAM))
    await peer.read_until(b'"Hel"')


STATES = [send_nothing, send_half_a_head, send_half_a_body, send_half_a_chunk, refused_before_its_body, send_no_http]
STATES += [between_requests, half_a_next_head, waiting, streaming]


@pytest.mark.parametrize("over", NUM_CLIENTS)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
async def test_clients_that_leave_leave_nothing_behind(over, state, tmp_path, monkeypatch):
    monkeypatch.setattr(http1, "LINGER_S", 600)  # no timer may do what the end of input has to do
    llm = FakeLLM(max_num_queued_reqs=1000)
    llm.hold_at = 1
    config = {"tcp": {}, "unix": {"uds": str(tmp_path / "socket")}, "tls": TLS_FILES}[over]
    async with serve_live(llm, **config) as live_server:
        gc.collect()  # what earlier tests have left behind may hold descriptors
        before, tasks = psutil.Process().num_fds(), len(asyncio.all_tasks())
        for _ in range(NUM_CLIENTS[over] // 100):
            peers = [await live_server.connect() for _ in range(100)]
            await asyncio.gather(*(state(live_server, peer) for peer in peers))
            await wait_until(lambda: len(live_server.connections) == 100)
            for peer in peers:
                peer.writer.close()
            await live_server.wait_until_closed()
        await wait_until(lambda: psutil.Process().num_fds() <= before and len(asyncio.all_tasks()) <= tasks)
        assert len(live_server.slots) == 0


async def wait_until(condition):
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


async def test_small_writes_are_not_held_back_for_the_client_s_acknowledgement():
    async with serve_live(FakeLLM()) as live_server, live_server.connection() as peer:
        await between_requests(live_server, peer)
        assert [sock.getsockopt(IPPROTO_TCP, TCP_NODELAY) for sock in live_server.connections] == [1]


async def test_clients_that_leave_during_the_handshake_leave_nothing_behind():
    async with serve_live(FakeLLM(), **TLS_FILES) as live_server:
        before = psutil.Process().num_fds()
        async with asyncio.timeout(10):
            for _ in range(10):
                writers = [(await asyncio.open_connection("127.0.0.1", live_server.port))[1] for _ in range(100)]
                await wait_until(lambda: len(live_server.connections) == 100)
                for writer in writers:
                    writer.close()
                await live_server.wait_until_closed()
        await wait_until(lambda: psutil.Process().num_fds() <= before)


async def test_connections_that_are_too_many_end_with_their_clients(monkeypatch):
    monkeypatch.setattr(http1, "LINGER_S", 600)
    monkeypatch.setattr(http_server, "REPLACEABLE_AFTER_S", 600)  # the first stays, however long this takes
    async with serve_live(FakeLLM(), max_connections=1) as live_server, live_server.connection() as first:
        await between_requests(live_server, first)
        for _ in range(1000):
            async with live_server.connection() as peer:
                await peer.send(get("/version"))
                assert (await peer.read_reply())[0] == 503
        await wait_until(lambda: len(live_server.connections) == 1)
        await between_requests(live_server, first)


async def test_more_that_are_too_many_than_can_be_told_are_closed(monkeypatch):
    monkeypatch.setattr(http1, "LINGER_S", 600)
    async with serve_live(FakeLLM(), max_connections=1) as live_server, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(live_server.connection()) for _ in range(400)]
        await between_requests(live_server, peers[0])
        answers = await asyncio.gather(*(peer.read_reply() for peer in peers[1:]), return_exceptions=True)
        assert sum(isinstance(answer, tuple) and answer[0] == 503 for answer in answers) == 256


@pytest.mark.parametrize("path", ["/live", "/health", "/ping"])
async def test_a_connection_that_is_too_many_may_ask_for_health_once(path):
    async with serve_live(FakeLLM(), max_connections=1) as live_server, live_server.connection() as first:
        await between_requests(live_server, first)
        async with live_server.connection() as second:
            await second.send(get(path) + get("/version"))
            answer = (await second.read_to_end()).lower()
            assert answer.startswith(b"http/1.1 200") and b"connection: close" in answer
            assert answer.count(b"http/1.1 ") == 1


async def test_an_idle_connection_makes_place_and_a_busy_one_does_not(monkeypatch):
    monkeypatch.setattr(http_server, "REPLACEABLE_AFTER_S", 0)
    llm = FakeLLM()
    llm.hold_at = 1
    async with (
        serve_live(llm, max_connections=2) as live_server,
        live_server.connection() as busy,
        live_server.connection() as silent,
    ):
        await streaming(live_server, busy)
        async with live_server.connection() as third:
            await between_requests(live_server, third)
            assert await silent.read_to_end() == b""
            await streaming(live_server, third)
            async with live_server.connection() as fourth:
                await fourth.send(get("/version"))
                assert (await fourth.read_reply())[0] == 503
        llm.release.set()
        await busy.read_until(b"data: [DONE]\n\n")


async def test_a_silent_connection_is_closed(monkeypatch):
    monkeypatch.setattr(lifecycle, "SILENCE_S", 0.05)
    async with serve_live(FakeLLM()) as live_server:
        async with live_server.connection() as silent:
            assert await silent.read_to_end() == b""
        async with live_server.connection() as idle:
            await between_requests(live_server, idle)
            await asyncio.wait([asyncio.create_task(idle.reader.read())], timeout=0.2)
            assert len(live_server.connections) == 1


async def test_connections_of_one_address_are_limited():
    async with serve_live(FakeLLM(), max_connections_per_ip=2) as live_server, AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(live_server.connection()) for _ in range(3)]
        for peer, status in zip(peers, (200, 200, 503), strict=True):
            await peer.send(get("/version"))
            assert (await peer.read_reply())[0] == status
        peers[0].writer.close()
        await wait_until(lambda: len(live_server.connections) == 1)
        again = await stack.enter_async_context(live_server.connection())
        await again.send(get("/version"))
        assert (await again.read_reply())[0] == 200


async def test_running_out_of_descriptors_is_a_pause(caplog):
    async with serve_live(FakeLLM()) as live_server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open(os.devnull, os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        try:
            peer = await live_server.connect()
            await peer.send(get("/live"))
            await wait_until(lambda: "cannot accept" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await peer.read_reply())[0] == 200
        peer.writer.close()


async def test_two_servers_of_one_process_keep_their_own_limits():
    async with (
        serve_live(FakeLLM(), max_connections=1, max_body_bytes=10, head_timeout_s=60) as strict,
        serve_live(FakeLLM(), max_connections=2, head_timeout_s=0.05) as open_to_two,
        strict.connection() as first,
        open_to_two.connection() as second,
        open_to_two.connection() as third,
    ):
        async with strict.connection() as one_too_many:
            assert (await one_too_many.read_reply())[0] == 503
        await second.send(b"GET /live HTTP/1.1\r\nHost")
        assert await second.read_to_end() == b""
        for peer, status in ((first, 413), (third, 200)):
            await peer.send(post(PATH, CHAT))
            assert (await peer.read_reply())[0] == status
