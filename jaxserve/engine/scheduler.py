"""The scheduler: plan() decides what a step computes, apply() takes its results. It never touches the device.

Requests and what they hold are kept in request_table.py; prompts are planned in prefill_scheduler.py, decode batches in
decode_scheduler.py, beams in beam_manager.py; results are applied in output_processor.py.

A plan may be made before the results of the plan before it are known. Its tokens are then pending until apply() gets
their ids. A request that turns out to have ended was computed once more for nothing.
"""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Literal

from jaxserve.cache.manager import CacheManager
from jaxserve.cache.pool import raise_first
from jaxserve.engine.beam_manager import BeamStep
from jaxserve.engine.decode_scheduler import DecodeScheduler
from jaxserve.engine.fault_search import FaultSearch
from jaxserve.engine.inspection import inspect_requests
from jaxserve.engine.invariants import SchedulerState, check_invariants, find_faults, find_leftovers
from jaxserve.engine.output_processor import OutputProcessor
from jaxserve.engine.plan import NO_MASKS, Chunk, DecodeBatch, Mask, StepMasks, StepPlan, StepResult
from jaxserve.engine.prefill_scheduler import PrefillScheduler
from jaxserve.engine.request import NO_TRACKERS, Request, TrackerFactory
from jaxserve.engine.request_faults import RequestFaults
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.routed_experts import RoutedExperts
from jaxserve.engine.stats import RequestGroup, Stats, count_pages
from jaxserve.engine_snapshot import InspectedEngine
from jaxserve.outputs import FinishReason, TokenOutput


class Scheduler:
    """The scheduler of all live requests, for one thread.

    cache                    The pages of all sequences.
    stats                    The metrics.
    max_num_seqs             The number of rows.
    max_num_batched_tokens   The most tokens of a step, rows of decode batches included.
    max_chunk_tokens         The largest chunk of one call, a multiple of the page size.
    max_pages_per_row        The most pages of a row.
    vocab_size               The number of token ids.
    max_logprobs             The most top log-probabilities that a step computes without those of the whole vocabulary.
    trackers                 Makes the objects that follow outputs.
    num_adapter_slots        The number of adapters that may be on the device together.
    splits_prompts           A prompt may be computed in several chunks; an encoder's is not.
    experts                  The chosen experts of all tokens, where outputs return them: steps bring a row one token.
    max_tokens_per_row       The most tokens that the runner's decode steps give a row.
    clock                    Monotonic seconds.

    is_paused                No step is planned; set by `pause` and `resume`.
    """

    def __init__(
        self,
        cache: CacheManager,
        stats: Stats,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_chunk_tokens: int,
        max_pages_per_row: int,
        vocab_size: int,
        max_logprobs: int,
        max_tokens_per_row: int = 1,
        trackers: TrackerFactory = NO_TRACKERS,
        num_adapter_slots: int = 0,
        splits_prompts: bool = True,
        experts: RoutedExperts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache, self.stats, self._token_budget = cache, stats, max_num_batched_tokens
        self._requests = RequestTable(
            cache,
            stats,
            max_num_seqs=max_num_seqs,
            max_chunk_tokens=max_chunk_tokens,
            max_pages_per_row=max_pages_per_row,
            vocab_size=vocab_size,
            trackers=trackers,
            num_adapter_slots=num_adapter_slots,
            clock=clock,
        )
        self._search = FaultSearch(self._requests)
        self._prefill = PrefillScheduler(
            self._requests,
            self._search,
            max_chunk_tokens=max_chunk_tokens,
            max_logprobs=max_logprobs,
            splits_prompts=splits_prompts,
        )
        self._decode = DecodeScheduler(self._requests, max_logprobs=max_logprobs, max_tokens_per_row=max_tokens_per_row)
        self._faults = RequestFaults(self._requests)
        self._output_processor = OutputProcessor(self._requests, self._faults, experts)
        self.is_paused = False

    @property
    def num_running(self) -> int:
        """The number of running requests."""
        return len(self._requests.running)

    @property
    def num_waiting(self) -> int:
        """The number of waiting requests."""
        return len(self._requests.waiting)

    @property
    def num_preempted(self) -> int:
        """The number of waiting requests that ran before."""
        return sum(1 for sequence in tuple(self._requests.waiting) if sequence.epoch)

    def list_adapters(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the adapters of running and of waiting requests. Safe in any thread."""
        running, waiting = (
            {sequence.request.adapter.name for sequence in tuple(sequences) if sequence.request.adapter is not None}
            for sequences in (self._requests.running, self._requests.waiting)
        )
        return tuple(sorted(running)), tuple(sorted(waiting))

    @property
    def has_work(self) -> bool:
        """Whether there is a live request that is not paused, or the last output of one to be taken."""
        return (bool(self._requests.by_id) and not self.is_paused) or self._faults.has_outputs

    def request_ids(self) -> list[int]:
        """Return the ids of the live requests."""
        return list(self._requests.by_id)

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        """Queue a request, which must fit the pool and have all its ids in the vocabulary.

        group   The choices that it belongs to, for the metrics.
        """
        self._faults.run(request, self._requests.add, request, group)

    def finish(self, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        """End a request without further output; unknown and finished ids change nothing.

        A beam search ends with any of its outputs.
        """
        sequence = self._requests.by_id.get(self._requests.beams.find_owner(request_id))
        if sequence is not None:
            self._faults.run(sequence.request, self._requests.finish, sequence, reason)
            self._settle()

    def pause(self) -> None:
        """Plan no step until `resume`. Requests keep their rows and pages; results of steps in flight are applied."""
        self.is_paused = True

    def resume(self) -> None:
        """Plan steps again."""
        self.is_paused = False

    def reset_prefix_cache(self, *, preempt_running: bool = False) -> bool:
        """Forget all cached prefixes; return False, without any change, if requests run whose pages would be cached.

        preempt_running   Preempt these: they are computed again.
        """
        running = self._requests.running
        if running and not preempt_running:
            return False
        for sequence in tuple(running):
            self._requests.preempt(sequence)
        self.cache.clear_prefix_cache()
        return True

    def inspect(self, in_flight: Sequence[StepPlan]) -> InspectedEngine:
        """Return a view of this state; in_flight as in `check_invariants`."""
        invariants, groups = self.check_invariants(in_flight), count_pages(self.cache)
        return inspect_requests(self._requests, invariants, groups, is_paused=self.is_paused)

    def plan(self) -> StepPlan:
        """Plan the next step: a token for every decode row and beam, then prompt chunks within the token budget."""
        if self.is_paused:
            return StepPlan()
        prefill, requests = self._prefill, self._requests
        self._search.advance()
        # The pages of sequences forked in this plan are copied after its step, at the beginning of the next one.
        self.cache.page_copies.plan(prefill.take_page_copies())
        prefill.preempt_for_priority()
        requests.ensure_beam_pages()
        requests.ensure_chunk_pages(max(self._token_budget, self.cache.page_size))
        decode = self._decode.plan()
        steps = requests.beams.plan_steps()
        num_rows = (len(decode) if decode else 0) + sum([len(step.batch) for step in steps])
        budget = max(self._token_budget - num_rows, self.cache.page_size)
        chunks: list[Chunk] = []
        for sequence in tuple(requests.running):
            if budget > 0 and not sequence.is_prefilled:
                budget -= prefill.add_chunk(sequence, budget, chunks)
        prefill.admit(budget, chunks)
        if decode is None and not chunks and not steps:
            return StepPlan()
        for step in steps:
            self.cache.page_copies.plan(step.page_copies)
        plan = StepPlan(
            decode,
            tuple(chunks),
            page_copies=self.cache.page_copies.take(),
            penalty_rows=requests.rows.pop_penalty_rows(),
            needs_previous_tokens=decode is not None and self._decode.needs_previous_tokens,
            adapters=requests.adapters.pop_updates(),
        )
        return _add_beams(plan, steps) if steps else plan

    def make_masks(self, plan: StepPlan) -> StepMasks:
        """Make the masks of the newest plan.

        If plan.needs_previous_tokens, the results of all plans before it must have been applied.
        """
        if not (self._decode.masked_indices or plan.chunks or plan.beams):
            return NO_MASKS
        started = self._requests.clock()
        decode: list[tuple[int, Mask | None]] = []
        if plan.decode is not None:
            request_ids = plan.decode.request_ids
            decode = [(index, self._make_mask(request_ids[index])) for index in self._decode.masked_indices]
        chunks = tuple(
            tuple(self._make_mask(row.request_id) if chunk.is_last else None for row in (chunk, *chunk.forks))
            for chunk in plan.chunks
        )
        masks = StepMasks(
            tuple((index, mask) for index, mask in decode if mask is not None),
            chunks if any(mask is not None for masks in chunks for mask in masks) else (),
            tuple(self._make_beam_masks(batch) for batch in plan.beams),
        )
        if masks.num_grammar_masks:
            self.stats.on_masks(masks.num_grammar_masks, self._requests.clock() - started)
        return masks

    def _make_mask(self, request_id: int) -> Mask | None:
        sequence = self._requests.by_id.get(request_id)
        return None if sequence is None else self._faults.run(sequence.request, sequence.make_mask)

    def _make_beam_masks(self, batch: DecodeBatch) -> tuple[tuple[int, Mask], ...]:
        sequence = self._requests.by_id.get(batch.request_ids[0])
        if sequence is None:
            return ()
        return self._faults.run(sequence.request, self._requests.beams.make_masks, batch) or ()

    def apply(self, plan: StepPlan, result: StepResult, outputs: list[TokenOutput]) -> None:
        """Apply the results of the oldest plan and append the new outputs."""
        self._output_processor.apply(plan, result, outputs)
        self._settle()

    def take_failed(self) -> list[TokenOutput]:
        """Return the last outputs of requests whose own work has raised since the last call, in whichever method."""
        return self._faults.take_outputs() if self._faults.has_outputs else []

    def fail_all(self, error: Exception) -> list[TokenOutput]:
        """End every live request with this error and return the last outputs."""
        for sequence in list(self._requests.by_id.values()):
            with suppress(Exception):  # what a failed step has left behind may not add up
                self._faults.end_with(sequence.request, error)
        return self.take_failed()

    def restart(self, request_ids: Collection[int], error: Exception) -> None:
        """Compute all requests again from their tokens on the host: all that the device had is lost.

        A request that is found to be the cause ends with an error (fault_search.py).

        request_ids   The requests of the steps that are lost; empty if it was no step that failed.
        error         What has failed.

        Raises the error itself if this happens too often.
        """
        suspects = request_ids or tuple(self._requests.by_id)
        if not self._search.allows_rebuild(len(suspects)):
            raise error
        culprit = self._requests.by_id.get(self._search.blame(suspects) or 0)
        self._requests.restart()
        self._prefill.take_page_copies()
        self.stats.on_rebuild()
        if culprit is not None:
            self._faults.end(culprit.request, error)
        self._settle()

    def check_invariants(self, in_flight: Sequence[StepPlan]) -> dict[str, Literal[True] | str]:
        """Evaluate the invariants of this state (invariants.py): each holds, or a sentence says what is wrong.

        in_flight   The plans whose results have not been applied, oldest first.
        """
        return check_invariants(self._get_state(in_flight))

    def audit(self, in_flight: Sequence[StepPlan] = ()) -> None:
        """Raise CacheInvariantError if an invariant does not hold; in_flight as in `check_invariants`."""
        raise_first(find_faults(self._get_state(in_flight)))

    def audit_leftovers(self) -> None:
        """Raise CacheInvariantError if no request is live and something is kept for one. It walks over no pages."""
        raise_first(find_leftovers(self._get_state(())))

    def _get_state(self, in_flight: Sequence[StepPlan]) -> SchedulerState:
        num_copies = len(self._prefill.page_copies) + self.cache.page_copies.num_for_requests
        return SchedulerState(self._requests, self._decode, self._search, num_copies, self._token_budget, in_flight)

    def _settle(self) -> None:
        """Forget what was kept for requests when none is left."""
        if not self._requests.by_id:
            self._search.advance()
            self._prefill.take_page_copies()
            self.cache.page_copies.forget()


def _add_beams(plan: StepPlan, steps: list[BeamStep]) -> StepPlan:
    """Return the plan with the steps of beam searches."""
    return replace(
        plan,
        penalty_rows=(*plan.penalty_rows, *chain(*(step.penalty_rows for step in steps))),
        row_updates=tuple(chain(*(step.row_updates for step in steps))),
        beams=tuple(step.batch for step in steps),
    )
