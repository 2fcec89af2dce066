"""plan() and apply(): who goes next, who is done, who must wait. Decides; never touches the device.

Who is here and holds what is kept in live.py, prompts are planned in admission.py, decode batches in decoding.py, beams
in searches.py; what comes home is applied in results.py.

A plan may be made before the results of the one before are home. It counts a token as promised; apply makes
it real. What turns out to be finished has then run once for nothing.
"""

import time
from collections.abc import Callable

from jaxserve.engine.admission import Admission
from jaxserve.engine.decoding import Decoding
from jaxserve.engine.live import Live
from jaxserve.engine.plan import Chunk, Mask, StepMasks, StepPlan, StepResult
from jaxserve.engine.request import Request
from jaxserve.engine.results import Results
from jaxserve.engine.searches import Step
from jaxserve.engine.stats import Family, Stats
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
        self._live = Live(
            pool,
            index,
            stats,
            page_size=page_size,
            max_num_seqs=max_num_seqs,
            max_pages_per_row=max_pages_per_row,
            vocab_size=vocab_size,
            clock=clock,
        )
        self._admission = Admission(self._live, max_chunk_tokens=max_chunk_tokens, max_logprobs=max_logprobs)
        self._decoding = Decoding(self._live, max_logprobs=max_logprobs)
        self._results = Results(self._live)

    @property
    def num_running(self) -> int:
        return len(self._live.running)

    @property
    def num_waiting(self) -> int:
        return len(self._live.waiting)

    @property
    def num_preempted(self) -> int:
        return sum(1 for progress in tuple(self._live.waiting) if progress.epoch)

    @property
    def has_work(self) -> bool:
        return bool(self._live.by_id)

    def live_ids(self) -> list[int]:
        return list(self._live.by_id)

    def add(self, request: Request, family: Family | None = None) -> None:
        """Queues a request that the door has checked: it fits the pool, and its ids are in the vocabulary."""
        self._live.add(request, family)

    def end(self, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        """Ends a request in whatever state; unknown and finished ids are fine. Nothing more is said about it.

        A search ends with any of its answers.
        """
        progress = self._live.by_id.get(self._live.searches.owner(request_id))
        if progress is not None:
            self._live.end(progress, reason)

    def plan(self) -> StepPlan:
        """The next step: a token for every decoding row and beam, then prompt chunks from what the budget leaves."""
        admission, live = self._admission, self._live
        copies, admission.copies = admission.copies, []  # those of this plan's forks come after its steps, in the next
        admission.overtake()
        live.make_room_for_beams()
        decode = self._decoding.plan()
        steps = live.searches.steps()
        rows = (len(decode) if decode else 0) + sum(len(step.batch) for step in steps)
        budget = max(self._token_budget - rows, self._page_size)
        chunks: list[Chunk] = []
        for progress in tuple(live.running):
            if budget > 0 and not progress.is_prefilled:
                budget -= admission.add_chunk(progress, budget, chunks)
        admission.admit(budget, chunks)
        if decode is None and not chunks and not steps:
            admission.copies = copies
            return StepPlan()
        return StepPlan(
            decode,
            tuple(chunks),
            copies=_merged(copies, steps),
            lines=(*live.rows.new_lines(), *(one for step in steps for one in step.lines)),
            told=tuple(one for step in steps for one in step.told),
            beams=tuple(step.batch for step in steps),
            waits=decode is not None and self._decoding.waits,
        )

    def masks(self, plan: StepPlan) -> StepMasks:
        """What the draws of this plan, the newest, may draw. If it waits: asked after all before it are applied."""
        began = self._live.clock()
        masked = () if plan.decode is None else self._decoding.masked
        decode = [] if plan.decode is None else [(at, self._mask(plan.decode.request_ids[at])) for at in masked]
        chunks = tuple(
            tuple(self._mask(one.request_id) if chunk.is_last else None for one in (chunk, *chunk.forks))
            for chunk in plan.chunks
        )
        masks = StepMasks(
            tuple((at, mask) for at, mask in decode if mask is not None),
            chunks if any(mask is not None for masks in chunks for mask in masks) else (),
            tuple(self._live.searches.masks(batch) for batch in plan.beams),
        )
        if masks.num_grammars:
            self.stats.on_masks(masks.num_grammars, self._live.clock() - began)
        return masks

    def _mask(self, request_id: int) -> Mask | None:
        progress = self._live.by_id.get(request_id)
        return None if progress is None else progress.mask()

    def apply(self, plan: StepPlan, result: StepResult) -> list[TokenOutput]:
        """Makes the promised tokens of a plan real; the outputs are what the callers should hear."""
        return self._results.apply(plan, result)

    def fail_all(self, error: Exception) -> list[TokenOutput]:
        """Ends every live request with the same honest error."""
        live = self._live
        return [live.end(progress, FinishReason.ERROR, error=error) for progress in list(live.by_id.values())]

    def audit(self) -> None:
        """Checks that pages, rows and requests add up; raises kvcache.pool.InvariantBroken."""
        self._live.audit()


def _merged(copies: list[tuple[int, int]], steps: list[Step]) -> tuple[tuple[int, int], ...]:
    """Forks' copies, then beams'. A page that changed hands between them is written for the newer holder alone."""
    newer = [pair for step in steps for pair in step.copies]
    targets = {target for _, target in newer}
    return (*(pair for pair in copies if pair[1] not in targets), *newer)
