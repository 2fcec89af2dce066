"""A client of the simulation: sends the requests of a call over its connection, and reads, leaves or stalls as told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import h11

from tests.simulation.virtual_network import Link, Network, Transport

PATIENCE_S = 400.0  # far above all timeouts: who waits so long was forgotten
READ_BYTES = 64 * 1024


@dataclass
class Outcome:
    """What became of a request.

    base          Number of the request; its seeds are from 8 * base.
    sent_s        When its first byte was sent.
    ended_s       When its reply was complete, or the connection ended, or the client left.
    status        Of the reply; None: there was none.
    is_complete   The reply is there to its end.
    has_left      The client has ended the connection of its own accord.
    is_stuck      Nothing came for PATIENCE_S.
    extra         Bytes behind the last reply.
    """

    call: dict[str, Any]
    base: int
    request: dict[str, Any]
    sent_s: float
    ended_s: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_complete: bool = False
    has_left: bool = False
    is_refused: bool = False
    is_stuck: bool = False
    extra: bytes = b""


class Client:
    """The connection of one call."""

    def __init__(self, network: Network, call: dict[str, Any], outcomes: list[Outcome]) -> None:
        self._network, self._call, self._outcomes = network, call, outcomes
        self._loop, self._manner = network.loop, call["manner"]
        self._parser = h11.Connection(h11.CLIENT)

    async def run(self) -> None:
        """Make the call to its end."""
        requests = self._call["requests"]
        for index, request in enumerate(requests):
            outcome = Outcome(self._call, 8 * self._call["number"] + index, request, self._loop.time())
            self._outcomes.append(outcome)
            try:
                if index == 0 and not await self._open(outcome):
                    return
                async with asyncio.timeout(PATIENCE_S):
                    await self._exchange(outcome, is_last=index == len(requests) - 1)
            except TimeoutError:
                outcome.is_stuck = True
            outcome.ended_s = self._loop.time()
            if not outcome.is_complete or self._parser.our_state is not h11.DONE:
                break
            if self._parser.their_state is not h11.DONE:
                break
            self._parser.start_next_cycle()
        self._transport.close()

    async def _open(self, outcome: Outcome) -> bool:
        link = Link(**self._call["link"])
        try:
            self._transport: Transport = await self._network.connect(link, self._call["address"], self._call["number"])
        except ConnectionRefusedError:
            outcome.is_refused, outcome.ended_s = True, self._loop.time()
            return False
        self._reader = asyncio.StreamReader(link.window_bytes, self._loop)
        self._transport.attach(asyncio.StreamReaderProtocol(self._reader, loop=self._loop))
        return True

    async def _exchange(self, outcome: Outcome, *, is_last: bool) -> None:
        how, after_s = self._manner["how"], self._manner.get("after_s", 0.0)
        if how == "silent":
            await self._read_reply(outcome)
            return
        data = self._encode(outcome.request, is_last)
        if how == "cut_body":
            data = data[: max(1, len(data) * 2 // 3)]
        if how == "slow_body":
            await self._write_slowly(data)
        else:
            self._transport.write(data)
        if how in ("read", "slow", "slow_body"):
            await self._read_reply(outcome)
            return
        if how == "pipelined":
            self._transport.write(b"GET /live HT")
        try:
            async with asyncio.timeout(after_s or 1e-6):
                await self._read_reply(outcome)
                return
        except TimeoutError:
            pass
        if how == "stall":
            await asyncio.sleep(60.0)
        self._leave(outcome, how)
        if how == "half_close":
            await self._read_reply(outcome)

    def _leave(self, outcome: Outcome, how: str) -> None:
        outcome.has_left = True
        outcome.ended_s = self._loop.time()
        if how == "half_close":
            self._transport.write_eof()
        elif how in ("reset", "stall"):
            self._transport.reset()
        else:
            self._transport.close()

    async def _write_slowly(self, data: bytes) -> None:
        size = -(-len(data) // self._manner["pieces"])
        for start in range(0, len(data), size):
            self._transport.write(data[start : start + size])
            await asyncio.sleep(self._manner["pause_s"])

    def _encode(self, request: dict[str, Any], is_last: bool) -> bytes:
        body = request["body"]
        data = b"" if body is None else json.dumps(body).encode()
        headers = [("Host", "x"), ("Content-Length", str(len(data)))]
        if body is not None:
            headers.append(("Content-Type", "application/json"))
        if self._call["key"] is not None:
            headers.append(("Authorization", f"Bearer {self._call['key']}"))
        if is_last:
            headers.append(("Connection", "close"))
        method = "GET" if body is None else "POST"
        head = self._parser.send(h11.Request(method=method, target=request["path"], headers=headers)) or b""
        content = (self._parser.send(h11.Data(data=data)) or b"") if data else b""
        return head + content + (self._parser.send(h11.EndOfMessage()) or b"")

    async def _read_reply(self, outcome: Outcome) -> None:
        """Read until the reply is complete, or the connection ends."""
        is_slow, parts = self._manner["how"] == "slow", [outcome.body]
        size = self._manner["read_bytes"] if is_slow else READ_BYTES
        try:
            while True:
                event = self._parser.next_event()
                if event is h11.NEED_DATA:
                    if is_slow:
                        await asyncio.sleep(self._manner["pause_s"])
                    self._parser.receive_data(await self._reader.read(size))
                elif isinstance(event, h11.Response):
                    outcome.status = event.status_code
                    outcome.headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    parts.append(bytes(event.data))
                    outcome.body = b"".join(parts)
                    parts = [outcome.body]
                elif isinstance(event, h11.EndOfMessage):
                    outcome.is_complete = True
                    outcome.extra = self._parser.trailing_data[0]
                    return
                elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return
        except (h11.RemoteProtocolError, ConnectionError):
            return  # the connection has ended in the middle of a reply, or was reset
