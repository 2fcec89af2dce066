"""plan() and apply(): who goes next, who is done, who must wait. Decides; never touches the device.

Requests and what they hold are kept in request_table.py; prompts are planned in prefill_scheduler.py, decode batches in
decode_scheduler.py, beams in beam_manager.py; results are applied in output_processor.py.

A plan may be made before the results of the one before are home. It counts a token as promised; apply makes
it real. What turns out to be finished has then run once for nothing.
"""

import time
from collections.abc import Callable

from jaxserve.engine.beam_manager import BeamStep
from jaxserve.engine.decode_scheduler import DecodeScheduler
from jaxserve.engine.output_processor import OutputProcessor
from jaxserve.engine.plan import Chunk, Mask, StepMasks, StepPlan, StepResult
from jaxserve.engine.prefill_scheduler import PrefillScheduler
from jaxserve.engine.request import Request
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.stats import RequestGroup, Stats
from jaxserve.kvcache.pool import PagePool
from jaxserve.kvcache.prefix import PrefixIndex
from jaxserve.outputs import FinishReason, TokenOutput


class Scheduler:
    """Owns every live request. One thread, one scheduler.

    max_chunk_tokens   the largest chunk one call computes; a multiple of the page size
    max_logprobs       how many of the best log-probabilities a step brings without being asked for all of them
    """

    def __init__(
        self,
        pool: PagePool,
        index: PrefixIndex | None,
        stats: Stats,
        *,
        page_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_chunk_tokens: int,
        max_pages_per_row: int,
        vocab_size: int,
        max_logprobs: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool, self.stats = pool, stats
        self._page_size, self._token_budget = page_size, max_num_batched_tokens
        self._requests = RequestTable(
            pool,
            index,
            stats,
            page_size=page_size,
            max_num_seqs=max_num_seqs,
            max_pages_per_row=max_pages_per_row,
            vocab_size=vocab_size,
            clock=clock,
        )
        self._prefill = PrefillScheduler(self._requests, max_chunk_tokens=max_chunk_tokens, max_logprobs=max_logprobs)
        self._decode = DecodeScheduler(self._requests, max_logprobs=max_logprobs)
        self._output_processor = OutputProcessor(self._requests)

    @property
    def num_running(self) -> int:
        return len(self._requests.running)

    @property
    def num_waiting(self) -> int:
        return len(self._requests.waiting)

    @property
    def num_preempted(self) -> int:
        return sum(1 for sequence in tuple(self._requests.waiting) if sequence.epoch)

    @property
    def has_work(self) -> bool:
        return bool(self._requests.by_id)

    def request_ids(self) -> list[int]:
        return list(self._requests.by_id)

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        """Queues a request that the door has checked: it fits the pool, and its ids are in the vocabulary."""
        self._requests.add(request, group)

    def finish(self, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        """Ends a request in whatever state; unknown and finished ids are fine. Nothing more is said about it.

        A search ends with any of its answers.
        """
        sequence = self._requests.by_id.get(self._requests.beams.find_owner(request_id))
        if sequence is not None:
            self._requests.finish(sequence, reason)

    def plan(self) -> StepPlan:
        """The next step: a token for every decoding row and beam, then prompt chunks from what the budget leaves."""
        prefill, requests = self._prefill, self._requests
        copies, prefill.page_copies = (
            prefill.page_copies,
            [],
        )  # those of this plan's forks come after its steps, in the next
        prefill.preempt_for_priority()
        requests.ensure_beam_pages()
        decode = self._decode.plan()
        steps = requests.beams.plan_steps()
        rows = (len(decode) if decode else 0) + sum(len(step.batch) for step in steps)
        budget = max(self._token_budget - rows, self._page_size)
        chunks: list[Chunk] = []
        for sequence in tuple(requests.running):
            if budget > 0 and not sequence.is_prefilled:
                budget -= prefill.add_chunk(sequence, budget, chunks)
        prefill.admit(budget, chunks)
        if decode is None and not chunks and not steps:
            prefill.page_copies = copies
            return StepPlan()
        return StepPlan(
            decode,
            tuple(chunks),
            page_copies=_merge_copies(copies, steps),
            penalty_rows=(*requests.rows.pop_penalty_rows(), *(one for step in steps for one in step.penalty_rows)),
            last_tokens=tuple(one for step in steps for one in step.last_tokens),
            beams=tuple(step.batch for step in steps),
            needs_previous_tokens=decode is not None and self._decode.needs_previous_tokens,
        )

    def make_masks(self, plan: StepPlan) -> StepMasks:
        """What the draws of this plan, the newest, may draw. If it waits: asked after all before it are applied."""
        began = self._requests.clock()
        masked = () if plan.decode is None else self._decode.masked_indices
        decode = [] if plan.decode is None else [(at, self._make_mask(plan.decode.request_ids[at])) for at in masked]
        chunks = tuple(
            tuple(self._make_mask(one.request_id) if chunk.is_last else None for one in (chunk, *chunk.forks))
            for chunk in plan.chunks
        )
        masks = StepMasks(
            tuple((at, mask) for at, mask in decode if mask is not None),
            chunks if any(mask is not None for masks in chunks for mask in masks) else (),
            tuple(self._requests.beams.make_masks(batch) for batch in plan.beams),
        )
        if masks.num_grammar_masks:
            self.stats.on_masks(masks.num_grammar_masks, self._requests.clock() - began)
        return masks

    def _make_mask(self, request_id: int) -> Mask | None:
        sequence = self._requests.by_id.get(request_id)
        return None if sequence is None else sequence.make_mask()

    def apply(self, plan: StepPlan, result: StepResult) -> list[TokenOutput]:
        """Makes the promised tokens of a plan real; the outputs are what the callers should hear."""
        return self._output_processor.apply(plan, result)

    def fail_all(self, error: Exception) -> list[TokenOutput]:
        """Ends every live request with the same honest error."""
        requests = self._requests
        return [
            requests.finish(sequence, FinishReason.ERROR, error=error) for sequence in list(requests.by_id.values())
        ]

    def audit(self) -> None:
        """Checks that pages, rows and requests add up; raises kvcache.pool.InvariantBroken."""
        self._requests.audit()


def _merge_copies(copies: list[tuple[int, int]], steps: list[BeamStep]) -> tuple[tuple[int, int], ...]:
    """Forks' copies, then beams'. A page that changed hands between them is written for the newer holder alone."""
    newer = [pair for step in steps for pair in step.page_copies]
    targets = {target for _, target in newer}
    return (*(pair for pair in copies if pair[1] not in targets), *newer)
