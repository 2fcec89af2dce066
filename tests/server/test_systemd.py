"""What systemd is told: when clients can connect, that the service is healthy, and when it stops."""

import asyncio
import os
import socket

import pytest

from server.systemd import ServiceNotifier
from tests.fake_llm import FakeLLM
from tests.server.live_server import get, serve_live


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path):
    """A socket in systemd's place, and its address as systemd writes it."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@jaxserve-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0"))
        sock.settimeout(10)
        yield sock, name


async def receive(sock):
    return (await asyncio.to_thread(sock.recv, 100)).decode()


async def test_a_server_is_ready_when_clients_can_connect_and_stops_when_it_is_told(manager, monkeypatch):
    sock, name = manager
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    async with serve_live(FakeLLM()) as live_server, live_server.connection() as peer:
        assert await receive(sock) == "READY=1"
        await peer.send(get("/live"))
        assert (await peer.read_reply())[0] == 200
    assert await receive(sock) == "STOPPING=1"


async def test_only_a_healthy_service_is_alive(manager):
    sock, name = manager
    llm = FakeLLM()
    notifier = ServiceNotifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())})
    watching = asyncio.create_task(notifier.watch(lambda: llm.is_healthy))
    assert [await receive(sock) for _ in range(3)] == ["WATCHDOG=1"] * 3
    llm.is_healthy = False
    sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        while True:
            await receive(sock)
    watching.cancel()


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "1000"}, {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
    ids=["no systemd", "no socket", "another process is watched"],
)
async def test_without_a_watchdog_there_is_nothing_to_do(environ):
    await ServiceNotifier(environ).watch(lambda: True)


def test_a_manager_that_is_gone_is_a_line_in_the_log(tmp_path, caplog):
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).send_ready()
    assert "systemd cannot be told READY=1: No such file" in caplog.text
