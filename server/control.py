"""Control of a running server, in dev mode: pausing it, and ending requests by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from server.errors import ApiError, unavailable
from server.request_slots import DRAIN_RETRY_AFTER_S, SHUTTING_DOWN, RequestSlots

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

PAUSED = "The server is paused."
ABORTED = "The request was aborted by its id."


class PauseMode(StrEnum):
    """The way in which a server is paused: what becomes of its requests.

    ABORT   those that run are ended with 503, new ones are refused with 503
    WAIT    those that run are finished first, also those that KEEP has stopped, new ones are refused with 503
    KEEP    those that run stop where they are and go on later, new ones wait
    """

    ABORT = "abort"
    WAIT = "wait"
    KEEP = "keep"


class ServerControl:
    """The pausing of a server and the ending of its requests.

    The newest order to pause or resume takes the place of the one before it. It is carried out even if its sender
    leaves, and all whose orders it has replaced return with it.

    mode   how the server is paused, or is about to be; None: it is not
    """

    def __init__(self, llm: AsyncLLM, slots: RequestSlots) -> None:
        self._llm, self._slots = llm, slots
        self._order: asyncio.Task[None] | None = None  # the newest
        self.mode: PauseMode | None = None

    async def pause(self, mode: PauseMode) -> None:
        """Pause the server, and return when nothing is computed any more, or when it is resumed meanwhile.

        Raises ApiError (503) if the server is shutting down, EngineStopped if the engine does not run.
        """
        if self._slots.is_draining:
            raise unavailable(SHUTTING_DOWN, DRAIN_RETRY_AFTER_S)
        may_be_stopped = self.mode is not None
        if mode is PauseMode.ABORT:
            self._slots.fail_all(unavailable(PAUSED))
        await self._follow(mode, self._pause(mode, may_be_stopped))

    async def resume(self) -> None:
        """Let the server go on; one that is not paused stays as it is.

        Raises EngineStopped if the engine does not run.
        """
        await self._follow(None, self._llm.resume())

    async def drain(self, timeout_s: float) -> None:
        """Admit no more requests, finish those that there are, and after `timeout_s` end the rest with an error.

        A server that is paused goes on first: no request that KEEP has stopped could finish otherwise.
        """
        if self.mode is not None:
            self._replace_order(None, self._llm.resume())
        await self._slots.drain(timeout_s)

    def abort(self, request_ids: Collection[str], caller: str | None) -> int:
        """End the unfinished requests with one of these ids, and return how many there were.

        request_ids   whole ids, of replies or as clients have chosen them; several requests may have one
        caller        whose requests are meant, as ApiKeyAuth.identify tells; None: those of everybody
        """
        ids = frozenset(request_ids)
        error = ApiError(400, ABORTED, type="RequestAborted")
        return sum(slot.abort(error) for slot in self._slots.find(ids, caller))

    async def _pause(self, mode: PauseMode, may_be_stopped: bool) -> None:
        if mode is PauseMode.WAIT:
            if may_be_stopped:
                await self._llm.resume()
            await self._slots.wait_until_empty()
        await self._llm.pause()

    async def _follow(self, mode: PauseMode | None, order: Coroutine[Any, Any, None]) -> None:
        """Carry out an order, and return when it, or the one that replaces it, has been carried out."""
        newest = self._replace_order(mode, order)
        while not newest.done():
            await asyncio.wait([newest])
            newest = self._order or newest
        newest.result()

    def _replace_order(self, mode: PauseMode | None, order: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Carry out an order in a task of its own, in place of the one before it; return the task."""
        self.mode = mode
        self._slots.refusal = None if mode in (None, PauseMode.KEEP) else PAUSED
        if self._order is not None:
            self._order.cancel()
        self._order = asyncio.create_task(order)
        self._order.add_done_callback(_take_exception)
        return self._order


def _take_exception(order: asyncio.Task[None]) -> None:
    """Let nothing be logged about an exception that nobody waits for."""
    if not order.cancelled():
        order.exception()
