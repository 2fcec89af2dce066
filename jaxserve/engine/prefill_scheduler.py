"""Prompts: who leaves the queue, who makes way for whom, and which stretch of a prompt a step computes."""

from collections import Counter

import numpy as np

from jaxserve.engine.plan import Chunk, Fork
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence
from jaxserve.sampling.sampler import SampleMode


class PrefillScheduler:
    """Decides about waiting requests and prompts.

    max_chunk_tokens   the largest chunk one call computes; a multiple of the page size
    page_copies             pages to copy before the next step
    """

    def __init__(self, requests: RequestTable, *, max_chunk_tokens: int, max_logprobs: int) -> None:
        self._requests = requests
        self._max_chunk_tokens, self._max_logprobs = max_chunk_tokens, max_logprobs
        self.page_copies: list[tuple[int, int]] = []

    def preempt_for_priority(self) -> None:
        """Lets waiting requests go ahead of running ones of worse priority, before those get anything in this step."""
        waiting, running = self._requests.waiting, self._requests.running
        while waiting and running and _priority(waiting[0]) < _priority(running[-1]):
            best = waiting[0]
            if best.num_pending or self._waits_for_parent(best) or self._requests.prefix_reuse.is_being_computed(best):
                return
            if not (self._requests.try_start(best) or (self._select_victims(best) and self._requests.try_start(best))):
                return
            del waiting[0]

    def _select_victims(self, best: Sequence) -> bool:
        """Preempts running requests of worse priority, the last first, if `best` then fits as a whole; else none.

        Those that are only just back are left alone, unless there is one candidate.
        """
        worse = [one for one in reversed(self._requests.running) if _priority(one) > _priority(best)]
        candidates = (
            worse
            if len(worse) == 1
            else [one for one in worse if not one.is_recently_resumed(self._requests.page_size)]
        )
        known = set(self._requests.prefix_reuse.find_cached_pages(best))
        free = self._requests.pool.num_free - sum(1 for page in known if not self._requests.pool.holders(page))
        missing = -(-best.num_tokens // self._requests.page_size) - len(known)
        held: Counter[int] = Counter()
        rows = len(self._requests.rows.free_rows)
        for num, victim in enumerate(candidates, 1):
            rows += victim.request.num_rows
            its = [*victim.pages, *self._requests.beams.list_pages(victim)]
            for page in its:
                held[page] += 1
                free += page not in known and held[page] == self._requests.pool.holders(page)
            if rows >= best.request.num_rows and missing + self._requests.watermark(best, rows) <= free:
                for one in candidates[:num]:
                    self._requests.preempt(one)
                return True
        return False

    def admit(self, budget: int, chunks: list[Chunk]) -> None:
        """Lets requests leave the queue in order; one whose prefix is being computed is passed over for now.

        Nobody passes a preempted one whose last token is still under way: its pages are for it, not for newcomers.
        """
        at = 0
        while budget >= self._requests.page_size and at < len(self._requests.waiting) and self._requests.rows.free_rows:
            sequence = self._requests.waiting[at]
            if self._waits_for_parent(sequence) or self._requests.prefix_reuse.is_being_computed(sequence):
                at += 1
            elif not sequence.num_pending and self._requests.try_start(sequence):
                del self._requests.waiting[at]
                budget -= self.add_chunk(sequence, budget, chunks)
            else:
                break

    def add_chunk(self, sequence: Sequence, budget: int, chunks: list[Chunk]) -> int:
        """Plans the next stretch of a prompt; returns its tokens. Stretches end at page borders but for the last.

        A budget of less than a page that is not enough for the rest either is left alone.
        """
        request, start, end = sequence.request, sequence.num_computed, len(sequence.tokens)
        room = min(budget, self._max_chunk_tokens)
        if end - start > room:
            end = start + room - room % self._requests.page_size
        if end == start:
            return 0
        sequence.is_prefilled = end == len(sequence.tokens)
        if sequence.is_prefilled:
            self._requests.decode_cache = None
        draws = sequence.is_prefilled and sequence.needs_more_tokens
        scores = sequence.prompt_logprobs is not None
        row = sequence.row
        assert row is not None
        mode = sequence.sample_mode(self._max_logprobs) if draws else SampleMode.GREEDY
        sequence.num_computed = end
        sequence.num_pending += draws
        chunks.append(
            Chunk(
                request_id=request.request_id,
                epoch=sequence.epoch,
                row=row,
                start=start,
                token_ids=np.array(sequence.tokens[start:end], np.int32),
                page_table_W=self._requests.rows.page_table_RW[row].copy(),
                sampling_S=sequence.sampling_S,
                mode=mode,
                is_last=draws,
                logprob_token_ids=request.params.logprob_token_ids if draws else (),
                prompt_targets=np.array(request.prompt_ids[start + 1 : end + 1], np.int32) if scores else None,
                all_prompt_logprobs=(request.params.prompt_logprobs or 0) > self._max_logprobs,
                forks=self._fork_siblings(sequence) if draws and request.num_siblings else (),
            )
        )
        return end - start

    def _waits_for_parent(self, sequence: Sequence) -> bool:
        """Whether the request may yet start from its parent's prompt, which is not computed to its end."""
        leader_id = sequence.request.parent_id
        if leader_id is None or len(sequence.tokens) > len(sequence.request.prompt_ids):
            return False
        parent = self._requests.by_id.get(leader_id)
        return parent is not None and not parent.is_prefilled

    def _fork_siblings(self, parent: Sequence) -> tuple[Fork, ...]:
        """Lets as many of a prompt's other choices as there is room for start from the parent's pages and logits.

        They hold the pages that the prompt fills, and get a copy of the last one, if it is not full: each will go on
        writing there. The others start later, by themselves.
        """
        pool, free = self._requests.pool, self._requests.rows.free_rows
        request, forks = parent.request, []
        length = len(request.prompt_ids)
        shared = parent.pages[: length // self._requests.page_size]
        own = -(-length // self._requests.page_size) - len(shared)
        if len(parent.tokens) > length:
            return ()  # it was preempted, and its last logits are not the prompt's
        for sequence in [one for one in self._requests.waiting if one.request.parent_id == request.request_id]:
            fits = free and own + self._requests.watermark(sequence, len(free)) <= pool.num_free
            new = pool.allocate(own) if fits else None
            if new is None:
                break
            self._requests.waiting.remove(sequence)
            pool.hold(shared)
            self.page_copies += [(parent.pages[-1], page) for page in new]
            mode = sequence.sample_mode(self._max_logprobs)
            self._requests.start(sequence, shared + new)
            sequence.num_cached_tokens = parent.num_cached_tokens
            sequence.num_computed, sequence.num_registered_pages = length, len(shared)
            sequence.is_prefilled, sequence.num_pending = True, 1
            self._requests.request_outputs.on_scheduled(sequence.request, length, self._requests.clock())
            wanted = sequence.request.params.logprob_token_ids
            assert sequence.row is not None
            forks.append(
                Fork(sequence.request.request_id, sequence.epoch, sequence.row, sequence.sampling_S, mode, wanted)
            )
        return tuple(forks)


def _priority(sequence: Sequence) -> int:
    return sequence.request.params.priority
