"""Scheduling of prompts: which waiting requests start, which running ones are preempted, which chunks are computed."""

import numpy as np

from jaxserve.cache.groups import PageCopy
from jaxserve.engine.fault_search import FaultSearch
from jaxserve.engine.plan import Chunk, Fork
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence
from jaxserve.sampling.sampler import SampleMode


class PrefillScheduler:
    """The planner of prompts: it starts waiting requests and adds chunks of their prompts to the plan.

    requests           The live requests.
    search             Holds some of them back.
    max_chunk_tokens   The largest chunk of one call, a multiple of the page size.
    max_logprobs       The most top log-probabilities that a step computes without those of the whole vocabulary.
    splits_prompts     A prompt may be computed in several chunks.

    page_copies        The page copies to make before the next step.
    """

    def __init__(
        self,
        requests: RequestTable,
        search: FaultSearch,
        *,
        max_chunk_tokens: int,
        max_logprobs: int,
        splits_prompts: bool = True,
    ) -> None:
        self._requests, self._search, self._splits_prompts = requests, search, splits_prompts
        self._max_chunk_tokens, self._max_logprobs = max_chunk_tokens, max_logprobs
        self.page_copies: list[PageCopy] = []

    def take_page_copies(self) -> list[PageCopy]:
        """Return the page copies to make before the next step, and forget them."""
        copies, self.page_copies = self.page_copies, []
        return copies

    def preempt_for_priority(self) -> None:
        """Start waiting requests of higher priority than running ones, preempting those if needed.

        To be called before anything of the step is planned, so that the preempted requests are not part of the plan.
        """
        requests = self._requests
        waiting, running = requests.waiting, requests.running
        while waiting and running and _priority(waiting[0]) < _priority(running[-1]):
            first = waiting[0]
            if first.num_pending or self._is_passed_over(first) or not requests.has_slot_for(first):
                return
            if not requests.try_start(first):
                victims = self._select_victims(first)
                for victim in victims:
                    requests.preempt(victim)
                if not victims or not requests.try_start(first):
                    return

    def _select_victims(self, waiting: Sequence) -> list[Sequence]:
        """Select the running sequences to preempt so that a waiting one fits: the last ones of lower priority.

        Returns none if it would not fit without all of them either. Recently resumed sequences are left out unless
        there is only one candidate.
        """
        requests = self._requests
        lower = [running for running in reversed(requests.running) if _priority(running) > _priority(waiting)]
        if len(lower) > 1:
            lower = [running for running in lower if not running.is_recently_resumed(requests.page_size)]
        hit = requests.prefix_reuse.find_hit(waiting)
        missing = requests.count_missing_pages(waiting, hit)
        release = requests.cache.plan_release(hit)
        num_rows = len(requests.rows.free_rows)
        for num, victim in enumerate(lower, 1):
            num_rows += victim.request.num_rows
            for pages in (victim.pages, *requests.beams.list_pages(victim)):
                release.add(pages)
            fits = release.allows(missing, requests.watermarks(waiting, num_rows))
            if fits and num_rows >= waiting.request.num_rows:
                return lower[:num]
        return []

    def admit(self, budget: int, chunks: list[Chunk]) -> None:
        """Start waiting requests in order and add their first chunks, up to `budget` tokens.

        A request that is held back, or whose prefix another one is computing, is passed over for now. A preempted
        request whose last token is still pending is not passed over, so that newer requests do not take its pages.
        One that waits for a slot for its adapter is passed over by requests without an adapter only, so that the slots
        become free.
        """
        requests, index, waits_for_slot = self._requests, 0, False
        while budget >= requests.page_size and index < len(requests.waiting) and requests.rows.free_rows:
            sequence = requests.waiting[index]
            waits_for_slot |= not requests.has_slot_for(sequence)
            if self._is_passed_over(sequence) or (waits_for_slot and sequence.request.adapter is not None):
                index += 1
            elif not sequence.num_pending and requests.try_start(sequence):
                budget -= self.add_chunk(sequence, budget, chunks)
            else:
                break

    def add_chunk(self, sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        """Add the next chunk of a sequence's prompt, of at most `budget` tokens, and return its number of tokens.

        Chunks end at page borders, except for the last one, and at those where snapshots are wanted. Returns 0 if the
        budget is smaller than a page, or than a prompt that is not split, and than the rest of the prompt.
        """
        request, start, end = sequence.request, sequence.num_computed, len(sequence.tokens)
        max_tokens = min(budget, self._max_chunk_tokens, self._requests.cache.capacity(sequence.pages) - start)
        if end - start > max_tokens:
            if not self._splits_prompts:
                return 0
            end = start + max_tokens - max_tokens % self._requests.page_size
        if end == start:
            return 0
        end = min(end, sequence.next_border(start))
        is_last = self._requests.compute_chunk(sequence, end)
        needs_prompt_logprobs = sequence.prompt_logprobs is not None
        row = sequence.row
        assert row is not None
        mode = sequence.sample_mode(self._max_logprobs) if is_last else SampleMode.GREEDY
        chunks.append(
            Chunk(
                request_id=request.request_id,
                epoch=sequence.epoch,
                row=row,
                start=start,
                token_ids=np.array(sequence.tokens[start:end], np.int32),
                page_tables_W=tuple(page_table_RW[row].copy() for page_table_RW in self._requests.rows.page_tables_RW),
                sampling_S=sequence.sampling_S,
                mode=mode,
                is_last=is_last,
                logprob_token_ids=request.params.logprob_token_ids if is_last else (),
                prompt_targets=(
                    np.array(request.prompt_ids[start + 1 : end + 1], np.int32) if needs_prompt_logprobs else None
                ),
                all_prompt_logprobs=(request.params.prompt_logprobs or 0) > self._max_logprobs,
                forks=self._fork_siblings(sequence) if is_last and request.num_siblings else (),
                adapter_slot=sequence.adapter_slot,
                second_start=request.second_start,
            )
        )
        return end - start

    def _is_passed_over(self, sequence: Sequence) -> bool:
        return (
            self._search.is_held(sequence)
            or self._waits_for_parent(sequence)
            or self._requests.prefix_reuse.is_being_computed(sequence)
        )

    def _waits_for_parent(self, sequence: Sequence) -> bool:
        """Whether the sequence can be forked from its parent, whose prompt is not computed to its end yet."""
        parent_id = sequence.request.parent_id
        if parent_id is None or len(sequence.tokens) > len(sequence.request.prompt_ids):
            return False
        parent = self._requests.by_id.get(parent_id)
        return parent is not None and not parent.is_prefilled and not self._search.is_held(parent)

    def _fork_siblings(self, parent: Sequence) -> tuple[Fork, ...]:
        """Start as many of a prompt's other choices as there is room for from the parent's pages and logits.

        A fork shares the pages that the prompt fills and gets a copy of the last one if that is not full, because it
        will write into it. The other choices start later, by themselves.
        """
        requests, forks, length = self._requests, [], len(parent.request.prompt_ids)
        if len(parent.tokens) > length:
            return ()  # it was preempted: its last logits are not the prompt's
        parent_id = parent.request.request_id
        for sequence in [waiting for waiting in requests.waiting if waiting.request.parent_id == parent_id]:
            if self._search.is_held(sequence):
                continue
            copies = requests.try_fork(parent, sequence)
            if copies is None:
                break
            self.page_copies += copies
            requests.request_outputs.on_scheduled(sequence.request, length, requests.clock())
            assert sequence.row is not None
            forks.append(
                Fork(
                    request_id=sequence.request.request_id,
                    epoch=sequence.epoch,
                    row=sequence.row,
                    sampling_S=sequence.sampling_S,
                    mode=sequence.sample_mode(self._max_logprobs),
                    logprob_token_ids=sequence.request.params.logprob_token_ids,
                )
            )
        return tuple(forks)


def _priority(sequence: Sequence) -> int:
    return sequence.request.params.priority
