"""plan() and apply(): who goes next, who is done, who must wait. Decides; never touches the device.

Pages are counted in kvcache/pool.py, prefixes remembered in kvcache/prefix.py, beams followed in searches.py, numbers
kept in stats.py.

A plan may be made before the results of the one before are home. It counts a token as promised; apply makes
it real. What turns out to be finished has then run once for nothing. Pages and rows are given back at once,
because the device runs steps in the order in which they were enqueued: what a late step still writes into a
page is overwritten by whoever gets the page next, before anybody reads it.
"""

import time
from bisect import insort
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from jaxserve.engine.answers import Answers
from jaxserve.engine.decoding import Standing
from jaxserve.engine.logprobs import logprobs_of
from jaxserve.engine.plan import Chunk, DecodeBatch, DrawnRows, Fork, Mask, StepMasks, StepPlan, StepResult
from jaxserve.engine.request import Progress, Request
from jaxserve.engine.rows import Rows
from jaxserve.engine.searches import Searches, Step
from jaxserve.engine.sharing import Sharing
from jaxserve.engine.stats import Family, Stats
from jaxserve.errors import InvalidParameter
from jaxserve.kvcache.pool import InvariantBroken, PagePool
from jaxserve.kvcache.prefix import KeyChain, PrefixIndex
from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.sampling.sampler import NO_TOKEN, SampleMode


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
        self._page_size = page_size
        self._token_budget = max_num_batched_tokens
        self._max_chunk_tokens = max_chunk_tokens
        self._vocab_size, self._max_logprobs = vocab_size, max_logprobs
        self._clock = clock
        self._rows = Rows(max_num_seqs, max_pages=max_pages_per_row, vocab_size=vocab_size)
        self._sharing = Sharing(index, page_size)
        self._answers = Answers(stats)
        self._searches = Searches(pool, page_size=page_size, max_pages_per_row=max_pages_per_row, vocab_size=vocab_size)
        self._live: dict[int, Progress] = {}
        self._waiting: list[Progress] = []  # both in order of priority, then of arrival
        self._running: list[Progress] = []
        self._standing: Standing | None = None
        self._masked: tuple[int, ...] = ()  # of the newest plan's decode batch: places of rows with masks,
        self._waits = False  # and whether one of them depends on tokens that are not home yet
        self._copies: list[tuple[int, int]] = []  # pages to copy before the next step

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_preempted(self) -> int:
        return sum(1 for progress in tuple(self._waiting) if progress.epoch)

    @property
    def has_work(self) -> bool:
        return bool(self._live)

    def live_ids(self) -> list[int]:
        return list(self._live)

    def add(self, request: Request, family: Family | None = None) -> None:
        """Queues a request that the door has checked: it fits the pool, and its ids are in the vocabulary."""
        progress = Progress.start(request, KeyChain(self._page_size, request.cache_salt), self._vocab_size)
        self._live[request.request_id] = progress
        self._answers.add(request, family, self._clock())
        self._searches.add(progress)
        insort(self._waiting, progress, key=_place)

    def end(self, request_id: int, reason: FinishReason = FinishReason.ABORT) -> None:
        """Ends a request in whatever state; unknown and finished ids are fine. Nothing more is said about it.

        A search ends with any of its answers.
        """
        progress = self._live.get(self._searches.owner(request_id))
        if progress is not None:
            self._end(progress, reason)

    def plan(self) -> StepPlan:
        """The next step: a token for every decoding row and beam, then prompt chunks from what the budget leaves."""
        copies, self._copies = self._copies, []  # those of this plan's forks come after its steps, in the next
        self._overtake()
        self._make_room_for_beams()
        decode = self._plan_decode()
        steps = self._searches.steps()
        rows = (len(decode) if decode else 0) + sum(len(step.batch) for step in steps)
        budget = max(self._token_budget - rows, self._page_size)
        chunks: list[Chunk] = []
        for progress in tuple(self._running):
            if budget > 0 and not progress.is_prefilled:
                budget -= self._add_chunk(progress, budget, chunks)
        self._admit(budget, chunks)
        if decode is None and not chunks and not steps:
            self._copies = copies
            return StepPlan()
        return StepPlan(
            decode,
            tuple(chunks),
            copies=_merged(copies, steps),
            lines=(*self._rows.new_lines(), *(one for step in steps for one in step.lines)),
            told=tuple(one for step in steps for one in step.told),
            beams=tuple(step.batch for step in steps),
            waits=decode is not None and self._waits,
        )

    def masks(self, plan: StepPlan) -> StepMasks:
        """What the draws of this plan, the newest, may not draw. If it waits: asked after all before it are applied."""
        decode = [] if plan.decode is None else [(at, self._mask(plan.decode.request_ids[at])) for at in self._masked]
        chunks = tuple(
            tuple(self._mask(one.request_id) if chunk.is_last else None for one in (chunk, *chunk.forks))
            for chunk in plan.chunks
        )
        return StepMasks(
            tuple((at, mask_M) for at, mask_M in decode if mask_M is not None),
            chunks if any(mask_M is not None for masks in chunks for mask_M in masks) else (),
            tuple(self._searches.masks(batch) for batch in plan.beams),
        )

    def _mask(self, request_id: int) -> Mask:
        progress = self._live.get(request_id)
        return None if progress is None else progress.mask()

    def apply(self, plan: StepPlan, result: StepResult) -> list[TokenOutput]:
        """Makes the promised tokens of a plan real; the outputs are what the callers should hear."""
        now = self._clock()
        outputs: list[TokenOutput] = []
        if plan.decode is not None and result.decode is not None:
            self._apply_decode(plan.decode, result.decode, now, outputs)
        for batch, drawn in zip(plan.beams, result.beams, strict=True):
            progress = self._live.get(batch.request_ids[0])
            if progress is not None and progress.epoch == batch.epochs[0]:
                outputs += self._apply_beams(progress, drawn, now)
        for chunk, drawn, scores in zip(plan.chunks, result.chunks, result.scores, strict=True):
            progress = self._live.get(chunk.request_id)
            if progress is not None:
                self._apply_chunk(progress, chunk, drawn[0], scores, now, outputs)
            for fork, its in zip(chunk.forks, drawn[1:], strict=True):
                follower = self._live.get(fork.request_id)
                if follower is not None:
                    self._apply_first(follower, its, now, outputs)
        return outputs

    def fail_all(self, error: Exception) -> list[TokenOutput]:
        """Ends every live request with the same honest error."""
        return [self._end(progress, FinishReason.ERROR, error=error) for progress in list(self._live.values())]

    def audit(self) -> None:
        """Checks that pages, rows and requests add up; raises kvcache.pool.InvariantBroken."""
        writable = (page for progress in self._running for page in progress.pages[self._first_open(progress) :])
        held = ([*progress.pages, *self._searches.held(progress)] for progress in self._live.values())
        self.pool.audit(held, chain(writable, self._searches.writable()))
        rows = [progress.row for progress in self._running if progress.row is not None] + self._searches.further_rows()
        free = self._rows.free
        if sorted(rows + free) != list(range(len(self._rows.table_RW))):
            raise InvariantBroken(f"rows {rows} running and {free} free are not every row once")
        if len(self._running) + len(self._waiting) != len(self._live):
            raise InvariantBroken("a live request is neither running nor waiting, or is both")

    def _first_open(self, progress: Progress) -> int:
        """The first of a request's pages that a step to come may write into."""
        return max(progress.num_registered, progress.num_computed // self._page_size)

    # Decoding

    def _plan_decode(self) -> DecodeBatch | None:
        standing = self._standing
        if standing is None or not self._goes_on(standing):
            standing = self._standing = self._gather()
        if standing is None:
            return None
        decode = standing.step()
        self._masked, self._waits = standing.masked, standing.waits
        if standing.passes:  # until when is counted in tokens, so look again next time
            self._standing = None
        return decode

    def _gather(self) -> Standing | None:
        """All rows that decode, looked at one by one."""
        members: list[Progress] = []
        for progress in tuple(self._running):
            decodes = progress.row is not None and progress.is_prefilled and progress.wants_more
            if decodes and not progress.request.is_search and self._make_room(progress):
                members.append(progress)
        if not members:
            return None
        return Standing.of(members, self._page_size, self._rows.table_RW, self._rows.sampling_RS, self._max_logprobs)

    def _goes_on(self, standing: Standing) -> bool:
        """Whether the same rows decode again; sees to a page for those that need one."""
        if (standing.position_B >= standing.end_B).any():
            return False
        needy = np.flatnonzero(standing.position_B >= standing.room_B)
        for at in needy.tolist():
            if not self._make_room(standing.members[at]) or self._standing is None:
                return False  # somebody was preempted
        if len(needy):
            standing.room_B[needy] += self._page_size
            standing.page_table_BW = self._rows.table_RW.take(standing.row_B, axis=0)
        return True

    def _make_room(self, progress: Progress) -> bool:
        """Sees to a page for the newest token, at the cost of the last of the running requests if need be.

        That is the youngest of the worst priority, and it comes last in the loop above, too: what it loses has not
        been planned yet.
        """
        if progress.num_computed < len(progress.pages) * self._page_size:
            return True
        pages = self._allocate(progress, 1)
        if pages is None:
            return False
        self._rows.give(progress, pages)
        return True

    def _allocate(self, progress: Progress, num: int) -> list[int] | None:
        """Pages for a running request; None when it was itself the one to be preempted."""
        while (pages := self.pool.allocate(num)) is None:
            victim = self._running[-1]
            self._preempt(victim)
            if victim is progress:
                return None
        return pages

    def _preempt(self, progress: Progress) -> None:
        """Takes pages and row back; the request returns to its place in the queue and is computed again."""
        self._answers.on_preempt(progress)
        self._leave(progress)
        progress.epoch += 1
        progress.num_computed = progress.num_registered = 0
        progress.is_prefilled = False
        insort(self._waiting, progress, key=_place)

    def _overtake(self) -> None:
        """Lets waiting requests go ahead of running ones of worse priority, before those get anything in this step."""
        while self._waiting and self._running and _priority(self._waiting[0]) < _priority(self._running[-1]):
            best = self._waiting[0]
            if best.num_promised or self._will_be_led(best) or self._sharing.is_being_computed(best):
                return
            if not (self._start(best) or (self._make_way(best) and self._start(best))):
                return
            del self._waiting[0]

    def _make_way(self, best: Progress) -> bool:
        """Preempts running requests of worse priority, the last first, if `best` then fits as a whole; else none.

        Those that are only just back are left alone, unless there is one candidate.
        """
        worse = [one for one in reversed(self._running) if _priority(one) > _priority(best)]
        candidates = worse if len(worse) == 1 else [one for one in worse if not one.is_settling(self._page_size)]
        known = set(self._sharing.known_pages(best))
        free = self.pool.num_free - sum(1 for page in known if not self.pool.holders(page))
        missing = -(-best.num_tokens // self._page_size) - len(known)
        held: Counter[int] = Counter()
        rows = len(self._rows.free)
        for num, victim in enumerate(candidates, 1):
            rows += victim.request.num_rows
            its = [*victim.pages, *self._searches.held(victim)]
            for page in its:
                held[page] += 1
                free += page not in known and held[page] == self.pool.holders(page)
            if rows >= best.request.num_rows and missing + self._spare(best, rows) <= free:
                for one in candidates[:num]:
                    self._preempt(one)
                return True
        return False

    # Prompts

    def _admit(self, budget: int, chunks: list[Chunk]) -> None:
        """Lets requests leave the queue in order; one whose prefix is being computed is passed over for now.

        Nobody passes a preempted one whose last token is still under way: its pages are for it, not for newcomers.
        """
        at = 0
        while budget >= self._page_size and at < len(self._waiting) and self._rows.free:
            progress = self._waiting[at]
            if self._will_be_led(progress) or self._sharing.is_being_computed(progress):
                at += 1
            elif not progress.num_promised and self._start(progress):
                del self._waiting[at]
                budget -= self._add_chunk(progress, budget, chunks)
            else:
                break

    def _start(self, progress: Progress) -> bool:
        """Gives a waiting request its known pages, new ones for the rest of its tokens, and its rows; or nothing."""
        if len(self._rows.free) < progress.request.num_rows:
            return False
        known = self._sharing.known_pages(progress)
        self.pool.hold(known)
        missing = -(-progress.num_tokens // self._page_size) - len(known)
        spare = self._spare(progress, len(self._rows.free))
        new = self.pool.allocate(missing) if missing + spare <= self.pool.num_free else None
        if new is None:
            self.pool.release(known)
            return False
        request, cached = progress.request, len(known) * self._page_size
        if self._sharing.reads(progress):
            self.stats.on_prefix(progress.num_tokens, cached)
        if progress.num_cached is None:
            progress.num_cached = cached
        self._answers.on_scheduled(request, cached, self._clock())
        self._enter(progress, known + new)
        progress.num_computed = cached
        progress.num_registered = len(known)
        self._sharing.announce(progress, len(known))
        return True

    def _enter(self, progress: Progress, pages: list[int]) -> None:
        """A waiting request becomes a running one, in a row of its own, or several."""
        row = self._rows.take(progress)
        if progress.request.is_search:
            self._searches.enter(progress, [row, *self._rows.take_more(progress.request.num_rows - 1)])
        self._rows.give(progress, pages)
        progress.started_at = progress.num_tokens
        insort(self._running, progress, key=_place)

    def _add_chunk(self, progress: Progress, budget: int, chunks: list[Chunk]) -> int:
        """Plans the next stretch of a prompt; returns its tokens. Stretches end at page borders but for the last.

        A budget of less than a page that is not enough for the rest either is left alone.
        """
        request, start, end = progress.request, progress.num_computed, len(progress.tokens)
        room = min(budget, self._max_chunk_tokens)
        if end - start > room:
            end = start + room - room % self._page_size
        if end == start:
            return 0
        progress.is_prefilled = end == len(progress.tokens)
        if progress.is_prefilled:
            self._standing = None
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
                page_table_W=self._rows.table_RW[row].copy(),
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

    def _spare(self, progress: Progress, num_free_rows: int) -> int:
        """Pages that stay free when a request starts beside others: one to grow for each of their rows and for the
        newcomer, so that it makes a page of tokens before it can be preempted; a search needs more. Alone it needs
        none: it fits the pool, or it would not be here."""
        rows = len(self._rows.table_RW) - num_free_rows
        return rows + 1 + self._searches.room(progress.request, again=progress.epoch > 0) if rows else 0

    # Beams

    def _make_room_for_beams(self) -> None:
        """Before the decoding rows get theirs: those that a search preempts here have not been planned yet."""
        for progress in self._searches.due():
            missing = self._searches.num_missing(progress)
            if missing is not None:
                pages = self._allocate(progress, missing)
                if pages is not None:
                    self._searches.give(progress, pages)

    def _apply_beams(self, progress: Progress, drawn: DrawnRows, now: float) -> list[TokenOutput]:
        """What may follow a search's prompt, or its live beams; its answers when these were the last."""
        if (drawn.token_B == NO_TOKEN).any():
            return [self._fail(progress, NO_TOKEN)]
        if not self._searches.advance(progress, drawn):
            return []
        try:
            outputs = self._searches.outputs(progress)
        except InvalidParameter as error:
            return [self._end(progress, FinishReason.ERROR, error=error)]
        self._answers.on_found(outputs, now)
        self._remove(progress)
        return outputs

    # Choices of one prompt

    def _will_be_led(self, progress: Progress) -> bool:
        """Whether the request may yet start from its leader's prompt, which is not computed to its end."""
        leader_id = progress.request.leader_id
        if leader_id is None or len(progress.tokens) > len(progress.request.prompt_ids):
            return False
        leader = self._live.get(leader_id)
        return leader is not None and not leader.is_prefilled

    def _fork(self, leader: Progress) -> tuple[Fork, ...]:
        """Lets as many of a prompt's other choices as there is room for start from the leader's pages and logits.

        They hold the pages that the prompt fills, and get a copy of the last one, if it is not full: each will go on
        writing there. The others start later, by themselves.
        """
        request, forks = leader.request, []
        length = len(request.prompt_ids)
        shared = leader.pages[: length // self._page_size]
        own = -(-length // self._page_size) - len(shared)
        if len(leader.tokens) > length:
            return ()  # it was preempted, and its last logits are not the prompt's
        for progress in [one for one in self._waiting if one.request.leader_id == request.request_id]:
            fits = self._rows.free and own + self._spare(progress, len(self._rows.free)) <= self.pool.num_free
            new = self.pool.allocate(own) if fits else None
            if new is None:
                break
            self._waiting.remove(progress)
            self.pool.hold(shared)
            self._copies += [(leader.pages[-1], page) for page in new]
            mode = progress.mode(self._max_logprobs)
            self._enter(progress, shared + new)
            progress.num_cached = leader.num_cached
            progress.num_computed, progress.num_registered = length, len(shared)
            progress.is_prefilled, progress.num_promised = True, 1
            self._answers.on_scheduled(progress.request, length, self._clock())
            wanted = progress.request.params.logprob_token_ids
            assert progress.row is not None
            forks.append(
                Fork(progress.request.request_id, progress.epoch, progress.row, progress.sampling_S, mode, wanted)
            )
        return tuple(forks)

    # Results

    def _apply_decode(self, decode: DecodeBatch, drawn: DrawnRows, now: float, outputs: list[TokenOutput]) -> None:
        tokens: list[int] = drawn.token_B.tolist()
        found = [self._live.get(request_id) for request_id in decode.request_ids]
        self._answers.on_decode((one for one, token in zip(found, tokens, strict=True) if one and token >= 0), now)
        ends = ((decode.position_B + 1) % self._page_size == 0).tolist()
        for at, (progress, token, fills_page) in enumerate(zip(found, tokens, ends, strict=True)):
            if progress is None:
                continue
            if fills_page and token >= 0 and progress.epoch == decode.epochs[at]:
                self._sharing.register(progress, int(decode.position_B[at]) + 1)
            self._apply_token(progress, token, drawn, at, outputs)

    def _apply_chunk(
        self,
        progress: Progress,
        chunk: Chunk,
        drawn: DrawnRows,
        scores: DrawnRows | None,
        now: float,
        outputs: list[TokenOutput],
    ) -> None:
        if scores is not None and progress.prompt_scores is not None:
            wanted = progress.request.params.prompt_logprobs or 0
            for at in range(len(scores.token_B)):
                progress.prompt_scores[chunk.start + 1 + at] = logprobs_of(scores, at, wanted)
        if drawn.token_B[0] >= 0 and progress.epoch == chunk.epoch:
            self._sharing.register(progress, chunk.end)
        if progress.request.is_search and chunk.is_last:
            if progress.epoch == chunk.epoch:
                outputs += self._apply_beams(progress, drawn, now)
        elif chunk.is_last:
            self._apply_first(progress, drawn, now, outputs)
        elif drawn.token_B[0] < 0:
            outputs.append(self._fail(progress, int(drawn.token_B[0])))
        elif not progress.wants_more and chunk.end == len(progress.tokens):
            outputs.append(self._end(progress, FinishReason.LENGTH))

    def _apply_first(self, progress: Progress, drawn: DrawnRows, now: float, outputs: list[TokenOutput]) -> None:
        if drawn.token_B[0] >= 0:
            self._answers.on_token(progress, now)
        self._apply_token(progress, int(drawn.token_B[0]), drawn, 0, outputs)

    def _apply_token(
        self, progress: Progress, token: int, drawn: DrawnRows, at: int, outputs: list[TokenOutput]
    ) -> None:
        progress.num_promised -= 1
        if token < 0:
            outputs.append(self._fail(progress, token))
            return
        progress.tokens.append(token)
        params = progress.request.params
        logprobs = None
        if params.logprobs is not None:
            logprobs = (logprobs_of(drawn, at, params.logprobs, params.logprob_token_ids),)
        finish = progress.finish_reason()
        if finish is None:
            outputs.append(self._answers.news(progress, (token,), logprobs))
        else:
            outputs.append(self._end(progress, finish[0], (token,), logprobs, stop_reason=finish[1]))

    def _fail(self, progress: Progress, token: int) -> TokenOutput:
        """Ends a request for which no token could be drawn; token says why."""
        return self._end(progress, FinishReason.ERROR, error=self._answers.no_token(token))

    # Beginnings and ends

    def _leave(self, progress: Progress) -> None:
        """Gives back what a running request holds."""
        if progress.row is None:
            return
        self._standing = None
        self._running.remove(progress)
        self._rows.leave(progress, self._searches.leave(progress))
        self.pool.release(progress.pages)
        progress.pages = []
        self._sharing.forget(progress)

    def _end(self, progress: Progress, reason: FinishReason, *last: Any, **why: Any) -> TokenOutput:
        """The last news of a request, which holds nothing from now on; `last` and `why` as Answers.end takes them."""
        output = self._answers.end(progress, reason, *last, **why)
        self._remove(progress)
        return output

    def _remove(self, progress: Progress) -> None:
        request = progress.request
        if progress.row is None:
            self._waiting.remove(progress)
        self._leave(progress)
        self._searches.remove(request)
        del self._live[request.request_id]
        self._answers.remove(request)


def _place(progress: Progress) -> tuple[int, int]:
    return progress.place


def _priority(progress: Progress) -> int:
    return progress.request.params.priority


def _merged(copies: list[tuple[int, int]], steps: list[Step]) -> tuple[tuple[int, int], ...]:
    """Forks' copies, then beams'. A page that changed hands between them is written for the newer holder alone."""
    newer = [pair for step in steps for pair in step.copies]
    targets = {target for _, target in newer}
    return (*(pair for pair in copies if pair[1] not in targets), *newer)
