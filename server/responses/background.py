"""Responses that are generated in the background, whether their client stays or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from sys import getsizeof
from typing import TYPE_CHECKING, Any

from server.errors import to_api_error
from server.generation import Generation
from server.responses.writer import ResponsesWriter
from server.sse import read_events
from server.writer import KEEP_ALIVE, Event

if TYPE_CHECKING:
    from server.responses.store import ResponseStore, StoredResponse

PIECE_BYTES = 64 * 1024  # of events that are sent at once
Start = Callable[["BackgroundRun"], Awaitable[tuple["StoredResponse", Generation, ResponsesWriter]]]


class BackgroundRun:
    """The generation of one response, in a task of its own, and its events for whoever wants to read them."""

    def __init__(self, store: ResponseStore, owner: str, keep_alive_s: float) -> None:
        """store: where the response is kept. owner: of the response.

        keep_alive_s: seconds without an event after which readers get a comment; 0: never.
        """
        self._store, self._owner, self._keep_alive_s = store, owner, keep_alive_s
        self._entry: StoredResponse | None = None
        self._writer: ResponsesWriter | None = None
        self._events: list[bytes] = []
        self._num_dropped = 0  # events before those
        self._changed = asyncio.Event()
        self._is_ended = False
        self._task: asyncio.Task[None] | None = None

    async def start(self, start: Start) -> Generation:
        """Begin the task, and return the generation when it has been started and the response is in the store.

        start: admits, prepares and starts the request, which then belongs to that task.

        Raises what `start` raises.
        """
        started: asyncio.Future[Generation] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(start, started))
        try:
            return await started
        finally:
            if started.cancelled():
                self._task.cancel()  # the client has left before there was a response

    @property
    def body(self) -> bytes:
        """The response as it is now, as JSON; {} before there is one."""
        return b"{}" if self._entry is None else self._entry.body

    def set_response(self, response: dict[str, Any]) -> None:
        """Replace the response in the store by what has become of it."""
        if self._entry is not None:
            self._store.replace(self._owner, self._entry, response)

    def cancel(self) -> None:
        """End the generation, and with it the response."""
        if self._task is not None:
            self._task.cancel()
        if self._writer is not None:
            self._end(self._writer.cancellation())

    @property
    def num_events(self) -> int:
        """Number of its events so far."""
        return self._num_dropped + len(self._events)

    async def read(self, after: int = -1) -> AsyncIterator[bytes]:
        """Yield the events behind the one with the number `after`, and those that are still to come."""
        position = after + 1
        while True:
            self._changed.clear()
            start = max(0, position - self._num_dropped)
            pieces, is_ended = self._take_pieces(start), self._is_ended
            if pieces:
                position = self._num_dropped + start + len(pieces)
                yield b"".join(pieces)
            elif is_ended:
                return
            elif not await self._wait():
                yield KEEP_ALIVE

    def _take_pieces(self, start: int) -> list[bytes]:
        """Return the next events, one or as many as PIECE_BYTES hold."""
        end, num_bytes = start, 0
        while end < len(self._events) and num_bytes < PIECE_BYTES:
            num_bytes += len(self._events[end])
            end += 1
        return self._events[start:end]

    async def _wait(self) -> bool:
        """Wait for more events, or the end; return False when a comment is due first."""
        try:
            async with asyncio.timeout(self._keep_alive_s or None):
                return await self._changed.wait()
        except TimeoutError:
            return False

    async def _run(self, start: Start, started: asyncio.Future[Generation]) -> None:
        try:
            self._entry, generation, writer = await start(self)
            self._writer = writer
            if started.cancelled():
                return
            self._store.put(self._owner, self._entry)
        except Exception as error:
            if not started.done():
                started.set_exception(error)
            return
        started.set_result(generation)
        await self._record(generation, writer)

    async def _record(self, generation: Generation, writer: ResponsesWriter) -> None:
        """Keep all events. One that the store has no room for ends the generation, and the others are dropped."""
        try:
            self._keep(writer.open_queued())
            async for events, _ in read_events(generation, writer, 1):
                if events and self._entry is not None and self._entry.status == "queued":
                    self.set_response({**self._entry.response, "status": "in_progress"})
                self._keep(events)
        except Exception as error:
            generation.release()
            self._drop_events()
            self._end(writer.failure(to_api_error(error, admitted=True)))
        else:
            self._end([])

    def _drop_events(self) -> None:
        if self._entry is not None:
            self._store.shrink(self._owner, self._entry, sum(map(getsizeof, self._events)))
        self._num_dropped += len(self._events)
        self._events = []

    def _keep(self, events: list[Event]) -> None:
        """Append events. Raises ApiError (503) if the store has no room for them."""
        num_bytes = self._append(events)
        if self._entry is not None and num_bytes:
            self._store.grow(self._owner, self._entry, num_bytes)

    def _end(self, events: list[Event]) -> None:
        """Append the last events, whether there is room for them or not."""
        num_bytes = self._append(events)
        if self._entry is not None:
            self._store.shrink(self._owner, self._entry, -num_bytes)
        self._is_ended = True
        self._changed.set()

    def _append(self, events: list[Event]) -> int:
        pieces = [event.encode() for event in events]
        self._events += pieces
        self._changed.set()
        return sum(map(getsizeof, pieces))
