"""The addresses that are bound, and the errors if they cannot be."""

import asyncio
import re
import socket
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from jaxserve import StartupError
from server.app import create_app
from server.config import ServerConfig
from server.lifecycle import serve
from server.listen import SUPPORTED_VERSIONS, check_version, format_requirement, listen
from server.startup import describe_reach, format_address
from tests.fake_llm import FakeLLM
from tests.server.live_server import get

ROOT = Path(__file__).parents[2]
BOTH_FAMILIES = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")


def reached(host: str, *asked: str) -> list[bool]:
    """Which of the asked addresses lead to a server that listens on `host`."""
    sockets = listen(ServerConfig(host=host, port=0))
    for sock in sockets:
        sock.listen()
    (port,) = {sock.getsockname()[1] for sock in sockets}
    answers = []
    for other in asked:
        try:
            socket.create_connection((other, port), timeout=5).close()
            answers.append(True)
        except ConnectionRefusedError:
            answers.append(False)
    for sock in sockets:
        sock.close()
    return answers


@BOTH_FAMILIES
@pytest.mark.parametrize(
    ("host", "answers"),
    [
        (ServerConfig().host, [True, False]),
        ("0.0.0.0", [True, False]),
        ("::1", [False, True]),
        ("::", [True, True]),
        ("", [True, True]),
    ],
)
def test_an_address_is_that_address_and_two_colons_are_all(host, answers):
    assert reached(host, "127.0.0.1", "::1") == answers


def test_localhost_is_every_address_that_it_has():
    entries = socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)
    assert all(reached("localhost", *{str(entry[4][0]) for entry in entries}))


@pytest.mark.parametrize("host", ["", "::", "localhost"])
def test_localhost_is_printed_where_all_of_it_is_listened_on(host):
    assert format_address(ServerConfig(host=host)) == "http://localhost:8000"


@pytest.mark.parametrize("host", [ServerConfig().host, "0.0.0.0", "127.0.0.1"])
def test_one_family_is_printed_as_its_address(host):
    assert format_address(ServerConfig(host=host)) == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("host", "key", "words"),
    [
        (ServerConfig().host, (), "this machine only (--host 0.0.0.0 listens on every network interface)"),
        ("::1", (), "this machine only"),
        ("0.0.0.0", (), "every network interface (IPv4 only; --host :: adds IPv6); WARNING: without a key."),
        ("::", (), "every network interface (IPv4 and IPv6); WARNING: without a key. Whoever reaches port 8000"),
        ("::", ("secret",), "every network interface (IPv4 and IPv6); a key is needed"),
        ("192.0.2.7", (), "192.0.2.7; WARNING"),
        ("fe80::1%eth0", ("secret",), "fe80::1%eth0; a key is needed"),
    ],
)
def test_the_table_says_who_can_reach_the_server(host, key, words):
    shown = describe_reach(ServerConfig(host=host, api_key=key), [host])
    assert shown.startswith(words)
    assert ("WARNING" in shown) == ("WARNING" in words)


def test_a_host_that_nobody_knows_is_refused():
    with pytest.raises(StartupError, match="--host"):
        listen(ServerConfig(host="no.such.host.invalid", port=0))


def test_a_port_in_use_is_a_sentence_that_says_what_to_do():
    with listen(ServerConfig(host="127.0.0.1", port=0))[0] as taken:
        taken.listen()
        with pytest.raises(StartupError, match=r"in use .* --port"):
            listen(ServerConfig(host="127.0.0.1", port=taken.getsockname()[1]))


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(StartupError, match="--host"):
        listen(ServerConfig(host="192.0.2.1", port=0))


def test_a_file_in_the_place_of_the_socket_is_left_alone(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(StartupError, match="--uds"):
        listen(ServerConfig(uds=str(file)))
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", SUPPORTED_VERSIONS)
@pytest.mark.parametrize("seen", ["0.17.3", "0.30.0", "1.0", "0.30.0rc1", "0"])
def test_a_version_that_was_never_tried_is_named_with_what_would_do(name, seen):
    with pytest.raises(StartupError, match=rf"{name} {re.escape(seen)} is installed; .* {name}>=0\.\d+,<0\.\d+"):
        check_version(name, seen)


@pytest.mark.parametrize("name", SUPPORTED_VERSIONS)
def test_the_versions_at_the_start_are_those_that_are_declared(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert format_requirement(name) in project["dependencies"]
    check_version(name, version(name))


async def serve_until(stop: asyncio.Event, listeners: tuple[socket.socket, ...], config: ServerConfig) -> int:
    return await serve(create_app(FakeLLM(), config), config, listeners, stop)


async def ask_health(port: int) -> bytes:
    """Return the reply, as soon as the server accepts connections."""
    async with asyncio.timeout(10):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0)
                continue
            writer.write(get("/health", "Connection: close"))
            reply = await reader.read()
            writer.close()
            return reply


async def test_clients_are_refused_until_the_server_is_ready():
    config, stop = ServerConfig(host="127.0.0.1", port=0), asyncio.Event()
    listeners = listen(config)
    port = listeners[0].getsockname()[1]
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
    server = asyncio.create_task(serve_until(stop, listeners, config))
    assert (await ask_health(port)).startswith(b"HTTP/1.1 200")
    stop.set()
    assert await server == 0


async def test_of_two_servers_that_start_on_one_port_the_later_one_is_told_so():
    """Linux lets both bind as long as nobody listens."""
    stop = asyncio.Event()
    first = listen(ServerConfig(host="127.0.0.1", port=0))
    config = ServerConfig(host="127.0.0.1", port=first[0].getsockname()[1])
    second = listen(config)
    server = asyncio.create_task(serve_until(stop, first, config))
    assert (await ask_health(config.port)).startswith(b"HTTP/1.1 200")
    with pytest.raises(StartupError, match="in use by another process"):
        await serve_until(asyncio.Event(), second, config)
    stop.set()
    assert await server == 0


LEAST_VERSIONS = {"h11": "0.16", "h2": "4.4.1", "jinja2": "3.1.6", "werkzeug": "3.1"}


@pytest.mark.parametrize("name", LEAST_VERSIONS)
def test_versions_of_packages_with_known_holes_are_not_installed(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [declared] = [each for each in map(Requirement, project["dependencies"]) if each.name == name]
    [lowest] = [specifier.version for specifier in declared.specifier if specifier.operator == ">="]
    assert Version(lowest) >= Version(LEAST_VERSIONS[name])
    assert declared.specifier.contains(version(name))
