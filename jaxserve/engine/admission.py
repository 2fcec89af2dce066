"""Prompts: who leaves the queue, who makes way for whom, and which stretch of a prompt a step computes."""

from collections import Counter

import numpy as np

from jaxserve.engine.live import Live
from jaxserve.engine.plan import Chunk, Fork
from jaxserve.engine.progress import Progress
from jaxserve.sampling.sampler import SampleMode


class Admission:
    """Decides about waiting requests and prompts.

    max_chunk_tokens   the largest chunk one call computes; a multiple of the page size
    copies             pages to copy before the next step
    """

    def __init__(self, live: Live, *, max_chunk_tokens: int, max_logprobs: int) -> None:
        self._live = live
        self._max_chunk_tokens, self._max_logprobs = max_chunk_tokens, max_logprobs
        self.copies: list[tuple[int, int]] = []

    def overtake(self) -> None:
        """Lets waiting requests go ahead of running ones of worse priority, before those get anything in this step."""
        waiting, running = self._live.waiting, self._live.running
        while waiting and running and _priority(waiting[0]) < _priority(running[-1]):
            best = waiting[0]
            if best.num_promised or self._will_be_led(best) or self._live.sharing.is_being_computed(best):
                return
            if not (self._live.start(best) or (self._make_way(best) and self._live.start(best))):
                return
            del waiting[0]

    def _make_way(self, best: Progress) -> bool:
        """Preempts running requests of worse priority, the last first, if `best` then fits as a whole; else none.

        Those that are only just back are left alone, unless there is one candidate.
        """
        worse = [one for one in reversed(self._live.running) if _priority(one) > _priority(best)]
        candidates = worse if len(worse) == 1 else [one for one in worse if not one.is_settling(self._live.page_size)]
        known = set(self._live.sharing.known_pages(best))
        free = self._live.pool.num_free - sum(1 for page in known if not self._live.pool.holders(page))
        missing = -(-best.num_tokens // self._live.page_size) - len(known)
        held: Counter[int] = Counter()
        rows = len(self._live.rows.free)
        for num, victim in enumerate(candidates, 1):
            rows += victim.request.num_rows
            its = [*victim.pages, *self._live.searches.held(victim)]
            for page in its:
                held[page] += 1
                free += page not in known and held[page] == self._live.pool.holders(page)
            if rows >= best.request.num_rows and missing + self._live.spare(best, rows) <= free:
                for one in candidates[:num]:
                    self._live.preempt(one)
                return True
        return False

    def admit(self, budget: int, chunks: list[Chunk]) -> None:
        """Lets requests leave the queue in order; one whose prefix is being computed is passed over for now.

        Nobody passes a preempted one whose last token is still under way: its pages are for it, not for newcomers.
        """
        at = 0
        while budget >= self._live.page_size and at < len(self._live.waiting) and self._live.rows.free:
            progress = self._live.waiting[at]
            if self._will_be_led(progress) or self._live.sharing.is_being_computed(progress):
                at += 1
            elif not progress.num_promised and self._live.start(progress):
                del self._live.waiting[at]
                budget -= self.add_chunk(progress, budget, chunks)
            else:
                break

    def add_chunk(self, progress: Progress, budget: int, chunks: list[Chunk]) -> int:
        """Plans the next stretch of a prompt; returns its tokens. Stretches end at page borders but for the last.

        A budget of less than a page that is not enough for the rest either is left alone.
        """
        request, start, end = progress.request, progress.num_computed, len(progress.tokens)
        room = min(budget, self._max_chunk_tokens)
        if end - start > room:
            end = start + room - room % self._live.page_size
        if end == start:
            return 0
        progress.is_prefilled = end == len(progress.tokens)
        if progress.is_prefilled:
            self._live.standing = None
        draws = progress.is_prefilled and progress.wants_more
        scores = progress.prompt_scores is not None
        row = progress.row
        assert row is not None
        mode = progress.mode(self._max_logprobs) if draws else SampleMode.GREEDY
        progress.num_computed = end
        progress.num_promised += draws
        chunks.append(
            Chunk(
                request_id=request.request_id,
                epoch=progress.epoch,
                row=row,
                start=start,
                token_ids=np.array(progress.tokens[start:end], np.int32),
                page_table_W=self._live.rows.table_RW[row].copy(),
                sampling_S=progress.sampling_S,
                mode=mode,
                is_last=draws,
                wanted_ids=request.params.logprob_token_ids if draws else (),
                next_ids=np.array(request.prompt_ids[start + 1 : end + 1], np.int32) if scores else None,
                scores_whole=(request.params.prompt_logprobs or 0) > self._max_logprobs,
                forks=self._fork(progress) if draws and request.num_followers else (),
            )
        )
        return end - start

    def _will_be_led(self, progress: Progress) -> bool:
        """Whether the request may yet start from its leader's prompt, which is not computed to its end."""
        leader_id = progress.request.leader_id
        if leader_id is None or len(progress.tokens) > len(progress.request.prompt_ids):
            return False
        leader = self._live.by_id.get(leader_id)
        return leader is not None and not leader.is_prefilled

    def _fork(self, leader: Progress) -> tuple[Fork, ...]:
        """Lets as many of a prompt's other choices as there is room for start from the leader's pages and logits.

        They hold the pages that the prompt fills, and get a copy of the last one, if it is not full: each will go on
        writing there. The others start later, by themselves.
        """
        pool, free = self._live.pool, self._live.rows.free
        request, forks = leader.request, []
        length = len(request.prompt_ids)
        shared = leader.pages[: length // self._live.page_size]
        own = -(-length // self._live.page_size) - len(shared)
        if len(leader.tokens) > length:
            return ()  # it was preempted, and its last logits are not the prompt's
        for progress in [one for one in self._live.waiting if one.request.leader_id == request.request_id]:
            fits = free and own + self._live.spare(progress, len(free)) <= pool.num_free
            new = pool.allocate(own) if fits else None
            if new is None:
                break
            self._live.waiting.remove(progress)
            pool.hold(shared)
            self.copies += [(leader.pages[-1], page) for page in new]
            mode = progress.mode(self._max_logprobs)
            self._live.enter(progress, shared + new)
            progress.num_cached = leader.num_cached
            progress.num_computed, progress.num_registered = length, len(shared)
            progress.is_prefilled, progress.num_promised = True, 1
            self._live.answers.on_scheduled(progress.request, length, self._live.clock())
            wanted = progress.request.params.logprob_token_ids
            assert progress.row is not None
            forks.append(
                Fork(progress.request.request_id, progress.epoch, progress.row, progress.sampling_S, mode, wanted)
            )
        return tuple(forks)


def _priority(progress: Progress) -> int:
    return progress.request.params.priority
