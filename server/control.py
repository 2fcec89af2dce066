"""Control of a running server, in dev mode: pausing it, and ending requests by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from enum import StrEnum
from typing import TYPE_CHECKING

from server.errors import ApiError, unavailable
from server.request_slots import RequestSlots

if TYPE_CHECKING:
    from jaxserve import AsyncLLM

PAUSED = "The server is paused."
ABORTED = "The request was aborted by its id."


class PauseMode(StrEnum):
    """The way in which a server is paused: what becomes of its requests.

    ABORT   those that run are ended with 503, new ones are refused with 503
    WAIT    those that run are finished first, new ones are refused with 503
    KEEP    those that run stop where they are and go on later, new ones wait
    """

    ABORT = "abort"
    WAIT = "wait"
    KEEP = "keep"


class ServerControl:
    """The pausing of a server and the ending of its requests.

    mode   how the server is paused, or is about to be; None: it is not
    """

    def __init__(self, llm: AsyncLLM, slots: RequestSlots) -> None:
        self._llm, self._slots = llm, slots
        self._resumed = asyncio.Event()
        self.mode: PauseMode | None = None

    async def pause(self, mode: PauseMode) -> None:
        """Pause the server, and return when nothing is computed any more, or when it is resumed meanwhile.

        Raises EngineStopped if the engine does not run.
        """
        self._resumed = asyncio.Event()
        self.mode, resumed = mode, self._resumed
        self._slots.refusal = None if mode is PauseMode.KEEP else PAUSED
        if mode is PauseMode.ABORT:
            self._slots.fail_all(unavailable(PAUSED))
        if mode is PauseMode.WAIT:
            await self._slots.wait_until_empty(resumed)
        if not resumed.is_set():
            await self._llm.pause()

    async def resume(self) -> None:
        """Let the server go on; one that is not paused stays as it is.

        Raises EngineStopped if the engine does not run.
        """
        self._resumed.set()
        self.mode = self._slots.refusal = None
        await self._llm.resume()

    def abort(self, request_ids: Collection[str], caller: str | None) -> int:
        """End the unfinished requests with one of these ids, and return how many there were.

        request_ids   whole ids, of replies or as clients have chosen them; several requests may have one
        caller        whose requests are meant, as ApiKeyAuth.identify tells; None: those of everybody
        """
        ids = frozenset(request_ids)
        error = ApiError(400, ABORTED, type="RequestAborted")
        return sum(slot.abort(error) for slot in self._slots.find(ids, caller))
