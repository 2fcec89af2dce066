"""Responses that are generated in the background, whether their client stays or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from server.errors import to_api_error
from server.generation import Generation
from server.responses.writer import ResponsesWriter
from server.sse import read_events
from server.writer import Event

if TYPE_CHECKING:
    from server.responses.store import ResponseStore, StoredResponse

Start = Callable[["BackgroundRun"], Awaitable[tuple["StoredResponse", Generation, ResponsesWriter]]]


class BackgroundRun:
    """The generation of one response, in a task of its own, and its events for whoever wants to read them."""

    def __init__(self, store: ResponseStore, owner: str) -> None:
        """store: where the response is kept. owner: of the response."""
        self._store, self._owner = store, owner
        self._entry: StoredResponse | None = None
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
    def response(self) -> dict[str, Any]:
        """The response as it is now, {} before there is one."""
        return {} if self._entry is None else self._entry.response

    def set_response(self, response: dict[str, Any]) -> None:
        """Replace the response in the store by what has become of it."""
        if self._entry is not None:
            self._entry.response = response

    def cancel(self) -> None:
        """End the generation, and with it the response."""
        if self._task is not None:
            self._task.cancel()
        self._update(status="cancelled")

    async def read(self, after: int = -1) -> AsyncIterator[bytes]:
        """Yield the events behind the one with the number `after`, and those that are still to come."""
        position = after + 1
        while True:
            self._changed.clear()
            pieces, is_ended = self._events[max(0, position - self._num_dropped) :], self._is_ended
            if pieces:
                position = self._num_dropped + len(self._events)
                yield b"".join(pieces)
            elif is_ended:
                return
            else:
                await self._changed.wait()

    async def _run(self, start: Start, started: asyncio.Future[Generation]) -> None:
        try:
            self._entry, generation, writer = await start(self)
            if started.cancelled():
                return
            self._store.put(self._owner, self._entry)
        except Exception as error:
            if not started.done():
                started.set_exception(error)
            return
        started.set_result(generation)
        try:
            await self._record(generation, writer)
        finally:
            self._is_ended = True
            self._changed.set()

    async def _record(self, generation: Generation, writer: ResponsesWriter) -> None:
        """Keep all events. One that the store has no room for ends the generation, and the others are dropped."""
        try:
            async for events, _ in read_events(generation, writer, 1):
                self._keep(events)
        except Exception as error:
            generation.release()
            self._drop_events()
            self._events = [event.encode() for event in writer.failure(to_api_error(error, admitted=True))]

    def _drop_events(self) -> None:
        if self._entry is not None:
            self._store.shrink(self._owner, self._entry, sum(map(len, self._events)))
        self._num_dropped += len(self._events)
        self._events = []

    def _keep(self, events: list[Event]) -> None:
        if self._entry is None or not events:
            return
        if self._entry.response["status"] == "queued":
            self._update(status="in_progress")
        pieces = [event.encode() for event in events]
        self._events += pieces
        self._changed.set()
        self._store.grow(self._owner, self._entry, sum(map(len, pieces)))

    def _update(self, **fields: Any) -> None:
        if self._entry is not None:
            self.set_response({**self._entry.response, **fields})
