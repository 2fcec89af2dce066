"""Generations, which answer admitted requests (request_slots.py).

A Generation buffers the engine's deltas until the reply takes them; those that accumulate for a slow client are merged,
choice by choice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from jaxserve import TextDelta, TokenLogprob
from server.client_fields import rename_fields
from server.errors import ApiError, to_api_error
from server.unsent_output import MAX_DELTAS, UnsentOutput, estimate_bytes, merge_deltas, merge_in_order

if TYPE_CHECKING:
    from jaxserve import OutputTimes, Ready
    from server.tracing import RequestTrace

FIELD_OF_CONSTRAINTS = "structured_outputs"  # the library's name for what requests may have in two fields


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
    cached_tokens   prompt tokens that its first choice found in the prefix cache
    times           of its newest output, if the request is timed
    """

    is_known: bool = False
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached_tokens: int = 0
    times: OutputTimes | None = None


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
        """Take what is pending, merged into one delta for each choice, or more if one would not keep the order.

        Fewer than `interval` tokens of a choice are left, unless they are its first or its last. A choice is also left
        until the logprobs of its prompt are there, if they were asked for.
        """
        if not self.is_finished:
            self._can_take.clear()
        due = [index for index in self._pending if self._is_due(index, interval)]
        return [delta for index in due for delta in self._take_choice(index)]

    def discard(self, error: ApiError) -> None:
        """Forget the deltas that have not been taken, and end the generation with this error, even if it is finished.

        A reply without them must not look like a whole one.
        """
        self._drop_pending()
        self._end(error)

    async def collect(self) -> list[TextDelta]:
        """Wait for the end, and return each choice as one delta, in order.

        Raises ApiError if the generation failed.
        """
        by_choice: dict[int, list[TextDelta]] = {}
        for delta in await self.collect_in_order():
            by_choice.setdefault(delta.index, []).append(delta)
        return [merge_deltas(by_choice[index]) for index in sorted(by_choice)]

    async def collect_in_order(self) -> list[TextDelta]:
        """Wait for the end, and return the deltas of all choices, those of each in order.

        Raises ApiError if the generation failed.
        """
        while not self.is_finished:
            self._can_take.clear()
            await self._can_take.wait()
        if self.error is not None:
            raise self.error
        return self.take()

    def fail(self, error: BaseException) -> None:
        """End the generation with this error, as the client will get it, unless it is finished already."""
        if not self.is_finished:
            self._end(to_api_error(error, admitted=True))

    def cancel(self) -> None:
        """Abort what is still being generated. Idempotent."""
        for running in self._running:
            running.cancel()

    def release(self) -> None:
        """Abort what is still being generated and forget the rest, because nobody reads it any more. Idempotent."""
        self.cancel()
        self._drop_pending()
        if self._trace is not None:
            self._trace.end(self.error)

    def _end(self, error: ApiError) -> None:
        self.error = error
        self.cancel()
        self._can_take.set()

    def _drop_pending(self) -> None:
        for index in list(self._pending):
            self._pop_pending(index)

    def _on_error(self, error: Exception) -> None:
        self.fail(rename_fields(error, {FIELD_OF_CONSTRAINTS: self._constraint_field}))

    def _put(self, prompt_index: int, delta: TextDelta) -> None:
        result = self.prompt_results[prompt_index]
        if delta.prompt_logprobs is not None:
            result.logprobs = delta.prompt_logprobs
        if delta.index == 0:
            # A choice that starts later finds what this request itself has computed.
            result.is_known, result.cached_tokens = True, max(result.cached_tokens, delta.num_cached_tokens)
        result.times = delta.times or result.times
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
        if len(pending) % MAX_DELTAS == 0:
            pending[-MAX_DELTAS:] = merge_in_order(pending[-MAX_DELTAS:])
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

    def _take_choice(self, index: int) -> list[TextDelta]:
        self._started.add(index)
        return merge_in_order(self._pop_pending(index))
