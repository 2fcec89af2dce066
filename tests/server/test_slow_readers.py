"""A client may take its reply as slowly as it likes, but not stand still."""

import asyncio
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypercorn.events import RawData

from server.connection import STALL_CHECKS, Connection

STALL_S = 0.04


class SlowClient:
    """A StreamWriter whose client takes some bytes, or none, between any two looks at it."""

    def __init__(self, left: list[int]) -> None:
        """left: the bytes that wait at each look; after the last the client has taken enough."""
        self.left, self.num_looks, self.was_aborted, self.written = left, 0, False, b""
        self.transport: Any = self

    def get_write_buffer_size(self) -> int:
        self.num_looks += 1
        return self.left[min(self.num_looks, len(self.left)) - 1]

    def get_extra_info(self, name: str) -> Any:
        return None

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.was_aborted

    def abort(self) -> None:
        self.was_aborted = True

    async def drain(self) -> None:
        if self.num_looks < len(self.left):
            await asyncio.get_running_loop().create_future()


def connect(client: SlowClient) -> Connection:
    policy: Any = SimpleNamespace(stall_s=STALL_S)
    anything: Any = None
    return Connection(policy, anything, anything, anything, anything, client, lambda *_: None)  # pyright: ignore


STILL = [7] * (STALL_CHECKS - 1)
CLIENTS = {
    "takes a byte now and then": ([*STILL, 6, 6, 6, 5, 5, 5, 4, 4, 4, 3, 3, 3, 2, 1], False),
    "takes nothing": ([7] * 99, True),
    "takes nothing any more": ([*STILL, 6, 5, *[5] * 99], True),
    "takes all at once": ([7], False),
}


@pytest.mark.parametrize("name", CLIENTS)
async def test_only_a_client_that_stands_still_is_cut_off(name):
    left, is_cut_off = CLIENTS[name]
    client = SlowClient(left)
    await connect(client).send(RawData(b"x"))
    assert (client.written, client.was_aborted) == (b"x", is_cut_off)


class BufferedClient(SlowClient):
    """A client whose bytes wait in the system's buffer, of which it takes some at every third look, or none."""

    def __init__(self, num_looks: int, ours: socket.socket, theirs: socket.socket | None) -> None:
        super().__init__([7] * num_looks)
        self.ours, self.theirs = ours, theirs

    def get_extra_info(self, name: str) -> Any:
        return self.ours

    def get_write_buffer_size(self) -> int:
        if self.theirs is not None and self.num_looks % 3 == 2:
            self.theirs.recv(1000)
        return super().get_write_buffer_size()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell")
@pytest.mark.parametrize("is_reading", [True, False])
async def test_a_client_that_empties_the_system_s_buffer_is_reading(is_reading):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        for _ in range(10):
            ours.send(bytes(1000))
        client = BufferedClient(30, ours, theirs if is_reading else None)
        await connect(client).send(RawData(b"x"))
        assert client.was_aborted != is_reading


async def test_a_connection_that_the_system_gives_up_is_not_waited_for():
    class Lost(SlowClient):
        async def drain(self) -> None:
            raise TimeoutError("the system's own, which asyncio.timeout raises as well")

    client = Lost([7] * 99)
    async with asyncio.timeout(30):
        await connect(client).send(RawData(b"x"))
    assert client.was_aborted and client.num_looks == 1
