"""Bugs on purpose, each of which the simulation must find."""

from collections.abc import Callable
from typing import Any

import pytest

import server.generation
import server.unsent_output
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.prefix import CacheContext
from jaxserve.engine.engine import Engine
from jaxserve.engine.heartbeat import Heartbeat
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.row_table import RowTable
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.sequence import Sequence
from jaxserve.fair_threads import FairThreads
from jaxserve.outputs import FinishReason
from jaxserve.text.text_stream import TextStream
from server.body import BodyMeter
from server.generation import Generation
from server.http1 import Http1Protocol
from server.request_slots import RequestSlot
from server.sse import KeepAliveTimer
from tests.simulation.virtual_threads import TimeModule

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def pages_of_an_aborted_request_are_not_freed(patch: Patch) -> None:
    """The pages leak."""
    finish = RequestTable.finish

    def leaky(self: Any, sequence: Any, reason: FinishReason, *args: Any, **kwargs: Any) -> Any:
        if reason is not FinishReason.ABORT:
            return finish(self, sequence, reason, *args, **kwargs)
        free, self.cache.free = self.cache.free, lambda pages: None
        try:
            return finish(self, sequence, reason, *args, **kwargs)
        finally:
            self.cache.free = free

    patch.setattr(RequestTable, "finish", leaky)


def a_page_is_published_before_its_step_has_ended(patch: Patch) -> None:
    """Others may find what is never computed."""
    compute_chunk = RequestTable.compute_chunk

    def early(self: Any, sequence: Any, end: int) -> bool:
        is_last = compute_chunk(self, sequence, end)
        self.on_written(sequence, end)
        return is_last

    patch.setattr(RequestTable, "compute_chunk", early)


def a_client_that_leaves_is_not_unsubscribed(patch: Patch) -> None:
    """Its request runs to the end."""
    patch.setattr(RequestSlot, "release", lambda self: self.places.release())


def the_first_of_merged_deltas_is_lost(patch: Patch) -> None:
    """A reader that is behind gets less text."""
    merge = server.unsent_output.merge_deltas
    patch.setattr(
        server.unsent_output, "merge_deltas", lambda deltas: merge(deltas[-1:] if len(deltas) > 2 else deltas)
    )


def a_waiting_request_is_lost_at_a_rebuild(patch: Patch) -> None:
    """Nobody answers it."""
    restart = RequestTable.restart

    def forgetful(self: Any) -> None:
        restart(self)
        if len(self.waiting) > 1:
            self.remove(self.waiting[-1])

    patch.setattr(RequestTable, "restart", forgetful)


def steps_are_timed_by_the_wall_clock(patch: Patch) -> None:
    """A jump of the clock kills the engine."""
    original = Heartbeat.__init__

    def init(self: Any, timeout_s: float, clock: Any) -> None:
        time_module = next(one for one in TimeModule.all_modules if one.monotonic == clock)
        original(self, timeout_s, time_module.time)

    patch.setattr(Heartbeat, "__init__", init)


def a_row_is_freed_twice(patch: Patch) -> None:
    """Two requests get it."""
    free = RowTable.free

    def twice(self: Any, sequence: Any, extra: Any = ()) -> None:
        row = sequence.row
        free(self, sequence, extra)
        if len(self.free_rows) > 1:
            self.free_rows.append(row)

    patch.setattr(RowTable, "free", twice)


def a_step_that_hangs_is_never_late(patch: Patch) -> None:
    """Health stays 200."""
    patch.setattr(Heartbeat, "is_late", property(lambda self: False))


def a_dead_engine_is_healthy(patch: Patch) -> None:
    """Nobody notices that a step never ends."""
    patch.setattr(Heartbeat, "is_stuck", property(lambda self: False))


def salts_do_not_part_the_cache(patch: Patch) -> None:
    """A client finds the prompts of others."""
    new_pages = CacheManager.new_pages
    patch.setattr(CacheManager, "new_pages", lambda self, *_: new_pages(self, CacheContext(salt=None)))


def a_task_of_a_caller_who_has_others_wakes_nobody(patch: Patch) -> None:
    """It waits for ever."""
    submit = FairThreads.submit

    def drowsy(self: Any, function: Any, caller: str = "") -> Any:
        is_first = caller not in self._waiting
        pool = self._threads
        if not is_first:
            self._threads = type("Asleep", (), {"submit": lambda *_: None})()
        try:
            return submit(self, function, caller)
        finally:
            self._threads = pool

    patch.setattr(FairThreads, "submit", drowsy)


def stop_strings_are_not_looked_for(patch: Patch) -> None:
    """The text goes on."""
    original = TextStream.__init__

    def init(self: Any, tokenizer: Any, params: Any, *args: Any) -> None:
        original(self, tokenizer, params.derive(stop=()), *args)

    patch.setattr(TextStream, "__init__", init)


def bytes_of_bodies_are_not_given_back(patch: Patch) -> None:
    """One day no body is accepted."""
    patch.setattr(BodyMeter, "_release", lambda self, num_bytes: None)


def output_that_is_over_is_dropped_without_an_error(patch: Patch) -> None:
    """A reply without its text looks whole. The code was like this."""

    def discard(self: Any, error: Any) -> None:
        self._drop_pending()
        if not self.is_finished:
            self._end(error)

    patch.setattr(Generation, "discard", discard)


def a_row_gets_the_tokens_of_the_next_one(patch: Patch) -> None:
    """Clients are answered with the tokens of others."""
    apply = Engine._apply_oldest

    def shifted(self: Any, outputs: Any) -> None:
        before = len(outputs)
        apply(self, outputs)
        if len(outputs) - before > 1:
            first, second = outputs[before], outputs[before + 1]
            outputs[before] = first._replace(token_ids=second.token_ids)

    patch.setattr(Engine, "_apply_oldest", shifted)


def a_connection_is_not_read_while_it_is_answered(patch: Patch) -> None:
    """The server does not see that a client has left, as Hypercorn does not behind a pipelined byte."""
    handle = Http1Protocol.handle

    async def blocking(self: Any, event: Any) -> None:
        await handle(self, event)
        while self._is_paused() and self.connection.trailing_data[0]:
            await server.generation.asyncio.sleep(0.05)

    patch.setattr(Http1Protocol, "handle", blocking)


def a_keep_alive_timer_never_ends(patch: Patch) -> None:
    """Something is left when the server has ended."""

    def cancel(self: Any) -> None:
        async def wait() -> None:
            await server.generation.asyncio.sleep(1e6)

        self._leak = self._loop.create_task(wait())

    patch.setattr(KeepAliveTimer, "cancel", cancel)


def a_preempted_request_forgets_a_token(patch: Patch) -> None:
    """It goes on behind a token less than its client has."""
    preempt = Sequence.preempt

    def forgetful(self: Any) -> None:
        if len(self.tokens) > len(self.request.prompt_ids):
            self.tokens.pop()
        preempt(self)

    patch.setattr(Sequence, "preempt", forgetful)


def aborts_are_ignored_while_a_request_waits(patch: Patch) -> None:
    """A client that leaves early is served."""
    finish = Scheduler.finish

    def deaf(self: Any, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        sequence = self._requests.by_id.get(request_id)
        if sequence is None or sequence.row is not None:
            finish(self, request_id, reason)

    patch.setattr(Scheduler, "finish", deaf)


MUTANTS: tuple[Mutant, ...] = (
    pages_of_an_aborted_request_are_not_freed,
    a_page_is_published_before_its_step_has_ended,
    a_client_that_leaves_is_not_unsubscribed,
    the_first_of_merged_deltas_is_lost,
    a_waiting_request_is_lost_at_a_rebuild,
    steps_are_timed_by_the_wall_clock,
    a_row_is_freed_twice,
    a_step_that_hangs_is_never_late,
    a_dead_engine_is_healthy,
    salts_do_not_part_the_cache,
    a_task_of_a_caller_who_has_others_wakes_nobody,
    stop_strings_are_not_looked_for,
    bytes_of_bodies_are_not_given_back,
    output_that_is_over_is_dropped_without_an_error,
    a_row_gets_the_tokens_of_the_next_one,
    a_connection_is_not_read_while_it_is_answered,
    a_keep_alive_timer_never_ends,
    a_preempted_request_forgets_a_token,
    aborts_are_ignored_while_a_request_waits,
)
