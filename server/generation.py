"""Admitted requests, and the generations that answer them.

A RequestSlot lasts from admission to the last byte of the reply. It is bound to the task that serves the request, so
that whatever ends that task (a complete reply, an error, a client that disconnects) ends the generation, too: a
response that was never started has no `finally` to do it. A Generation buffers the engine's deltas until the reply
takes them; those that accumulate for a slow client are merged, choice by choice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from jaxserve import EngineStopped, InvalidParameter, TextDelta, TokenLogprob
from server.client_fields import client_fields, rename_fields
from server.config import ServerConfig
from server.errors import ApiError, to_api_error, too_many_requests, unavailable
from server.unsent_output import MAX_DELTAS, UnsentOutput, estimate_bytes, merge_deltas

if TYPE_CHECKING:
    from jaxserve import AsyncLLM, QueueSlot, Ready
    from server.tracing import RequestTrace

FIELD_OF_CONSTRAINTS = "structured_outputs"  # the library's name for what requests may have in two fields
SHUTTING_DOWN = "The server is shutting down."
DRAIN_RETRY_AFTER_S = 5
T = TypeVar("T")
ERROR_FLUSH_S = 1.0  # time for the error of a request that did not finish while draining to reach its client


class Cancellable(Protocol):
    """A request that runs."""

    def cancel(self) -> None:
        """Abort it. Idempotent."""
        ...


class Generator(Protocol):
    """The part of AsyncLLM that a Generation uses."""

    def start(
        self, ready: Ready, on_delta: Callable[[TextDelta], None], on_error: Callable[[Exception], None]
    ) -> Cancellable:
        """Start the choices of one prompt, as AsyncLLM.start does."""
        ...


@dataclass(slots=True)
class PromptResult:
    """The part of a prompt's first result that is about the prompt itself.

    is_known        the first result is there
    logprobs        one entry for each prompt token, the first None; None: they were not asked for
    cached_tokens   prompt tokens that were found in the prefix cache
    """

    is_known: bool = False
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached_tokens: int = 0


class Generation:
    """The generations of one request: one or more prompts, each with n choices, numbered prompt * n + choice.

    jobs             the prepared requests, one for each prompt
    prompt_results   one for each prompt, filled in by its first result
    error            what ended all of it early, as the client is told; None as long as nothing has
    """

    def __init__(
        self,
        llm: Generator,
        jobs: Sequence[Ready],
        unsent: UnsentOutput,
        constraint_field: str = FIELD_OF_CONSTRAINTS,
        trace: RequestTrace | None = None,
    ) -> None:
        """Start all prompts.

        unsent: what counts deltas that wait behind others.
        constraint_field: the request's field of its constraint, which errors about it name.
        trace: what is told of all deltas, and of the end.
        """
        self.jobs, self._unsent = jobs, unsent
        self._unsent_bytes: Counter[int] = Counter()  # by choice
        self.prompt_results = [PromptResult() for _ in jobs]
        self.error: ApiError | None = None
        self._n = jobs[0].params.n
        self._pending: dict[int, list[TextDelta]] = {}
        self._started: set[int] = set()
        self._can_take = asyncio.Event()
        self._unfinished = len(jobs) * self._n
        self._constraint_field, self._trace = constraint_field, trace
        self._running = [llm.start(job, partial(self._put, number), self._on_error) for number, job in enumerate(jobs)]

    @property
    def num_choices(self) -> int:
        """Number of choices of all prompts together."""
        return len(self.jobs) * self._n

    @property
    def is_finished(self) -> bool:
        """Whether no more deltas will come; pending ones may still be taken."""
        return self.error is not None or self._unfinished == 0

    @property
    def has_begun(self) -> bool:
        """Whether a delta has come."""
        return bool(self._started or self._pending)

    @property
    def has_pending(self) -> bool:
        """Whether deltas may be taken that have not been."""
        return bool(self._pending)

    def get_prompt_index(self, index: int) -> int:
        """Return the index of the prompt to which choice `index` belongs."""
        return index // self._n

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until deltas are pending or the generation is finished; return False if the time is up first."""
        if not self._can_take.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._can_take.wait()
        return self._can_take.is_set()

    def wake(self) -> None:
        """Let `wait` return, although nothing may be pending."""
        self._can_take.set()

    def take(self, interval: int = 1) -> list[TextDelta]:
        """Take what is pending, merged into one delta for each choice.

        Fewer than `interval` tokens of a choice are left, unless they are its first or its last. A choice is also left
        until the logprobs of its prompt are there, if they were asked for.
        """
        if not self.is_finished:
            self._can_take.clear()
        return [self._take_choice(index) for index in list(self._pending) if self._is_due(index, interval)]

    def drop_pending(self) -> None:
        """Forget the deltas that have not been taken."""
        for index in list(self._pending):
            self._pop_pending(index)

    async def collect(self) -> list[TextDelta]:
        """Wait for the end, and return each choice as one delta, in order.

        Raises ApiError if the generation failed.
        """
        while not self.is_finished:
            self._can_take.clear()
            await self._can_take.wait()
        if self.error is not None:
            raise self.error
        return sorted(self.take(), key=lambda delta: delta.index)

    def fail(self, error: BaseException) -> None:
        """End the generation with this error, as the client will get it, unless it is finished already."""
        if not self.is_finished:
            self.error = to_api_error(error, admitted=True)
            self.cancel()
            self._can_take.set()

    def cancel(self) -> None:
        """Abort what is still being generated. Idempotent."""
        for running in self._running:
            running.cancel()

    def release(self) -> None:
        """Abort what is still being generated and forget the rest, because nobody reads it any more. Idempotent."""
        self.cancel()
        self.drop_pending()
        if self._trace is not None:
            self._trace.end(self.error)

    def _on_error(self, error: Exception) -> None:
        self.fail(rename_fields(error, {FIELD_OF_CONSTRAINTS: self._constraint_field}))

    def _put(self, prompt_index: int, delta: TextDelta) -> None:
        result = self.prompt_results[prompt_index]
        if delta.prompt_logprobs is not None:
            result.logprobs = delta.prompt_logprobs
        result.cached_tokens = max(result.cached_tokens, delta.num_cached_tokens)
        result.is_known |= delta.index == 0
        if prompt_index:
            delta = replace(delta, index=prompt_index * self._n + delta.index)
        if self._trace is not None:
            self._trace.on_delta(delta)
        self._add_pending(delta)
        self._unfinished -= delta.finish_reason is not None
        self._can_take.set()

    def _add_pending(self, delta: TextDelta) -> None:
        """Add a delta to those of its choice; one behind others is counted, and many become one."""
        pending = self._pending.setdefault(delta.index, [])
        pending.append(delta)
        if len(pending) == 1:
            return
        if len(pending) == MAX_DELTAS:
            pending[:] = [merge_deltas(pending)]
        num_bytes = estimate_bytes(delta)
        self._unsent_bytes[delta.index] += num_bytes
        self._unsent.add(self, num_bytes)

    def _pop_pending(self, index: int) -> list[TextDelta]:
        if num_bytes := self._unsent_bytes.pop(index, 0):
            self._unsent.remove(self, num_bytes)
        return self._pending.pop(index)

    def _is_due(self, index: int, interval: int) -> bool:
        if self.is_finished:
            return True
        prompt_index, pending = self.get_prompt_index(index), self._pending[index]
        if (
            self.jobs[prompt_index].params.prompt_logprobs is not None
            and not self.prompt_results[prompt_index].is_known
        ):
            return False
        if interval == 1 or index not in self._started or pending[-1].finish_reason is not None:
            return True
        return sum(len(delta.token_ids) for delta in pending) >= interval

    def _take_choice(self, index: int) -> TextDelta:
        self._started.add(index)
        return merge_deltas(self._pop_pending(index))


class RequestSlot:
    """One admitted request: its places in the queue, its time limits, and its generations once they are started.

    places   what the library admitted
    """

    def __init__(
        self, places: QueueSlot, config: ServerConfig, unsent: UnsentOutput, trace: RequestTrace | None = None
    ) -> None:
        """config: the time limits. unsent: what counts output that is not read. trace: what its span will say."""
        self.places, self._unsent, self._trace = places, unsent, trace
        self._generation: Generation | None = None
        self._error: BaseException | None = None
        self._has_failed = asyncio.Event()
        loop = asyncio.get_running_loop()
        timers = ((config.queue_timeout_s, self._end_waiting), (config.request_timeout_s, self._end_running))
        self._timers = [loop.call_later(seconds, end, seconds) for seconds, end in timers if seconds]

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work for the request before its generations are started.

        Raises the error that `fail` is given meanwhile; the work is then cancelled.
        """
        if not self._timers:
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
        self.places.name(request_id.partition("-")[2], is_traced=self._trace is not None)
        if self._trace is not None:
            self._trace.describe(request_id, jobs)
        self._generation = Generation(llm, jobs, self._unsent, constraint_field, self._trace)
        return self._generation

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
    """

    def __init__(self, llm: AsyncLLM, config: ServerConfig) -> None:
        self._llm, self._config = llm, config
        self._requests: set[RequestSlot] = set()
        self._choices_by_caller: Counter[str] = Counter()
        self._unsent = UnsentOutput(config.max_unsent_bytes)
        self._empty = asyncio.Event()
        self.is_draining = False

    def __len__(self) -> int:
        return len(self._requests)

    def admit(
        self, num_generations: int, param: str = "n", caller: str = "", trace: RequestTrace | None = None
    ) -> RequestSlot:
        """Admit the request of the current task with `num_generations` generations, until that task is done.

        caller: who sends it, as ApiKeyAuth.identify tells. trace: what its span will say.

        Raises ApiError if the server is shutting down (503) or the caller has too many requests (429), Overloaded if
        the queue is full, InvalidParameter about `param` if it could never hold so many, EngineStopped if the engine is
        not running, RuntimeError if it is not called in a task.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("admit belongs to the task that serves the request")
        if self.is_draining:
            raise unavailable(SHUTTING_DOWN, DRAIN_RETRY_AFTER_S)
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

    async def drain(self, timeout_s: float) -> None:
        """Admit no more requests, wait for the admitted ones, and after `timeout_s` end the rest with an error."""
        self.is_draining = True
        if not await self._wait_until_empty(timeout_s):
            for slot in list(self._requests):
                slot.fail(unavailable(SHUTTING_DOWN, DRAIN_RETRY_AFTER_S))
            await self._wait_until_empty(ERROR_FLUSH_S)

    def fail_all(self, error: BaseException | None = None) -> None:
        """End all admitted requests with an error, by default EngineStopped."""
        for slot in list(self._requests):
            slot.fail(error or EngineStopped("The engine has stopped."))

    async def _wait_until_empty(self, timeout_s: float) -> bool:
        self._empty.clear()
        if self._requests:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()
        return not self._requests
