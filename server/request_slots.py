"""Admitted requests.

A RequestSlot lasts from admission to the last byte of the reply. It is bound to the task that serves the request, so
that whatever ends that task (a complete reply, an error, a client that disconnects) ends the generation, too: a
response that was never started has no `finally` to do it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence, Set
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from jaxserve import EngineStopped, InvalidParameter
from server.client_fields import client_fields
from server.config import ServerConfig
from server.errors import ApiError, too_many_requests, unavailable
from server.generation import Generation, Generator
from server.unsent_output import UnsentOutput

if TYPE_CHECKING:
    from jaxserve import AsyncLLM, QueueSlot, Ready
    from server.tracing import RequestTrace

SHUTTING_DOWN = "The server is shutting down."
DRAIN_RETRY_AFTER_S = 5
ERROR_FLUSH_S = 1.0  # time for the error of a request that did not finish while draining to reach its client
T = TypeVar("T")


class RequestSlot:
    """One admitted request: its places in the queue, its time limits, and its generations once they are started.

    places   what the library admitted
    ids      the id of its reply, and the part of it that the client may have chosen
    """

    def __init__(
        self, places: QueueSlot, config: ServerConfig, unsent: UnsentOutput, trace: RequestTrace | None = None
    ) -> None:
        """config: the time limits. unsent: what counts output that is not read. trace: what its span will say."""
        self.places, self._unsent, self._trace = places, unsent, trace
        self._generation: Generation | None = None
        self._error: BaseException | None = None
        self._has_failed = asyncio.Event()
        self._may_be_aborted = config.server_dev_mode
        self._is_timed = trace is not None or config.enable_per_request_metrics
        self.ids = ("", "")
        loop = asyncio.get_running_loop()
        timers = ((config.queue_timeout_s, self._end_waiting), (config.request_timeout_s, self._end_running))
        self._timers = [loop.call_later(seconds, end, seconds) for seconds, end in timers if seconds]

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work for the request before its generations are started.

        Raises the error that `fail` is given meanwhile; the work is then cancelled.
        """
        if not self._timers and not self._may_be_aborted:
            return await work
        task, failure = asyncio.ensure_future(work), asyncio.ensure_future(self._has_failed.wait())
        try:
            await asyncio.wait((task, failure), return_when=asyncio.FIRST_COMPLETED)
            if self._error is not None and not task.done():
                raise self._error
            return await task
        finally:
            task.cancel()
            failure.cancel()

    def start(self, llm: Generator, request_id: str, jobs: Sequence[Ready], constraint_field: str) -> Generation:
        """Start the generations. Raises the error that `fail` was given, if it has been called already."""
        if self._error is not None:
            raise self._error
        self.places.name(self.ids[1], is_timed=self._is_timed)
        if self._trace is not None:
            self._trace.describe(request_id, jobs)
        self._generation = Generation(llm, jobs, self._unsent, constraint_field, self._trace)
        return self._generation

    def set_id(self, prefix: str, base: str) -> None:
        """Take note of the id of its reply, prefix and base, by which it may be aborted. base: may be the client's."""
        self.ids = (prefix + base, base)

    def abort(self, error: BaseException) -> bool:
        """End the request with this error; return False if it has been finished or ended already."""
        if self._error is not None or (self._generation is not None and self._generation.is_finished):
            return False
        self.fail(error)
        return True

    def fail(self, error: BaseException) -> None:
        """End the request with this error, whether its generations have been started or not."""
        self._error = error
        self._has_failed.set()
        if self._generation is not None:
            self._generation.fail(error)

    def release(self) -> None:
        """Abort what is still being generated, when the task of the request is done, and give its places back."""
        for timer in self._timers:
            timer.cancel()
        if self._generation is not None:
            self._generation.release()
        self.places.release()

    def _end_waiting(self, seconds: float) -> None:
        if self._generation is None or not self._generation.has_begun:
            self.fail(unavailable(f"The request waited for {seconds:g} s; please try again later."))

    def _end_running(self, seconds: float) -> None:
        self.fail(ApiError(504, f"The request was not finished within {seconds:g} s."))


class RequestSlots:
    """The admitted requests of a server.

    is_draining    no more requests are admitted
    refusal        why no requests are admitted for now; None: they are
    """

    def __init__(self, llm: AsyncLLM, config: ServerConfig) -> None:
        self._llm, self._config = llm, config
        self._requests: set[RequestSlot] = set()
        self._choices_by_caller: Counter[str] = Counter()
        self._unsent = UnsentOutput(config.max_unsent_bytes)
        self._empty = asyncio.Event()
        self.is_draining = False
        self.refusal: str | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def admit(
        self, num_generations: int, param: str = "n", caller: str = "", trace: RequestTrace | None = None
    ) -> RequestSlot:
        """Admit the request of the current task with `num_generations` generations, until that task is done.

        caller: who sends it, as ApiKeyAuth.identify tells. trace: what its span will say.

        Raises ApiError if the server is shutting down or paused (503) or the caller has too many requests (429),
        Overloaded if the queue is full, InvalidParameter about `param` if it could never hold so many, EngineStopped if
        the engine is not running, RuntimeError if it is not called in a task.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("admit belongs to the task that serves the request")
        if self.is_draining:
            raise unavailable(SHUTTING_DOWN, DRAIN_RETRY_AFTER_S)
        if self.refusal is not None:
            raise unavailable(self.refusal)
        self._check_caller(caller, num_generations, param)
        with client_fields({"n": param}):
            places = self._llm.admit(num_generations, caller)
        slot = RequestSlot(places, self._config, self._unsent, trace)
        self._requests.add(slot)
        self._choices_by_caller[caller] += num_generations
        task.add_done_callback(lambda _: self._release(slot, caller, num_generations))
        return slot

    def _check_caller(self, caller: str, num_generations: int, param: str) -> None:
        limit = self._config.max_concurrency_per_key
        if not limit:
            return
        if num_generations > limit:
            message = f"The request asks for {num_generations} generations; one caller may have {limit} at a time."
            raise InvalidParameter(message, param)
        if self._choices_by_caller[caller] + num_generations > limit:
            raise too_many_requests(f"{limit} generations at a time are allowed; please wait for one of yours to end.")

    def _release(self, slot: RequestSlot, caller: str, num_generations: int) -> None:
        slot.release()
        self._requests.discard(slot)
        self._choices_by_caller[caller] -= num_generations
        if not self._choices_by_caller[caller]:
            del self._choices_by_caller[caller]
        if not self._requests:
            self._empty.set()

    def find(self, ids: Set[str], caller: str | None) -> list[RequestSlot]:
        """Return the requests that have one of these ids and come from this caller; None: from anybody."""
        return [
            slot for slot in self._requests if not ids.isdisjoint(slot.ids) and caller in (None, slot.places.caller)
        ]

    async def wait_until_empty(self, timeout_s: float | None = None) -> bool:
        """Wait until there is no request, at most for so long; return whether there is none."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._requests:
                    self._empty.clear()
                    await self._empty.wait()
        return not self._requests

    async def drain(self, timeout_s: float) -> None:
        """Admit no more requests, wait for the admitted ones, and after `timeout_s` end the rest with an error."""
        self.is_draining = True
        if not await self.wait_until_empty(timeout_s):
            for slot in list(self._requests):
                slot.fail(unavailable(SHUTTING_DOWN, DRAIN_RETRY_AFTER_S))
            await self.wait_until_empty(ERROR_FLUSH_S)

    def fail_all(self, error: BaseException | None = None) -> None:
        """End all admitted requests with an error, by default EngineStopped."""
        for slot in list(self._requests):
            slot.fail(error or EngineStopped("The engine has stopped."))
