"""Every live request: whether it waits or runs, and what it holds. Begins, preempts and ends them.

Pages are counted in kvcache/pool.py, prefixes remembered in kvcache/prefix.py, beams followed in searches.py. Pages and
rows are given back at once, even while a step that uses them is under way: the device runs steps in the order in which
they were enqueued, so what a late step still writes into a page is overwritten by whoever gets the page next, before
anybody reads it.
"""

import time
from bisect import insort
from collections.abc import Callable
from itertools import chain
from typing import Any

from jaxserve.engine.answers import Answers
from jaxserve.engine.progress import Progress
from jaxserve.engine.request import Request
from jaxserve.engine.rows import Rows
from jaxserve.engine.searches import Searches
from jaxserve.engine.sharing import Sharing
from jaxserve.engine.standing import Standing
from jaxserve.engine.stats import Family, Stats
from jaxserve.kvcache.pool import InvariantBroken, PagePool
from jaxserve.kvcache.prefix import KeyChain, PrefixIndex
from jaxserve.outputs import FinishReason, TokenOutput


class Live:
    """Owned by the scheduler.

    by_id      every live request
    waiting    those without row and pages, and
    running    the others, both in order of priority, then of arrival
    standing   the decode batch as it stands; None once somebody has joined or left
    """

    def __init__(
        self,
        pool: PagePool,
        index: PrefixIndex | None,
        stats: Stats,
        *,
        page_size: int,
        max_num_seqs: int,
        max_pages_per_row: int,
        vocab_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool, self.stats, self.page_size, self.clock = pool, stats, page_size, clock
        self._vocab_size = vocab_size
        self.rows = Rows(max_num_seqs, max_pages=max_pages_per_row, vocab_size=vocab_size)
        self.sharing = Sharing(index, page_size)
        self.answers = Answers(stats)
        self.searches = Searches(pool, page_size=page_size, max_pages_per_row=max_pages_per_row, vocab_size=vocab_size)
        self.by_id: dict[int, Progress] = {}
        self.waiting: list[Progress] = []
        self.running: list[Progress] = []
        self.standing: Standing | None = None

    def add(self, request: Request, family: Family | None = None) -> None:
        """A request comes, and waits."""
        progress = Progress.start(request, KeyChain(self.page_size, request.cache_salt), self._vocab_size)
        self.by_id[request.request_id] = progress
        self.answers.add(request, family, self.clock())
        self.searches.add(progress)
        insort(self.waiting, progress, key=_place)

    def start(self, progress: Progress) -> bool:
        """Gives a waiting request its known pages, new ones for the rest of its tokens, and its rows; or nothing."""
        if len(self.rows.free) < progress.request.num_rows:
            return False
        known = self.sharing.known_pages(progress)
        self.pool.hold(known)
        missing = -(-progress.num_tokens // self.page_size) - len(known)
        spare = self.spare(progress, len(self.rows.free))
        new = self.pool.allocate(missing) if missing + spare <= self.pool.num_free else None
        if new is None:
            self.pool.release(known)
            return False
        request, cached = progress.request, len(known) * self.page_size
        if self.sharing.reads(progress):
            self.stats.on_prefix(progress.num_tokens, cached)
        if progress.num_cached is None:
            progress.num_cached = cached
        self.answers.on_scheduled(request, cached, self.clock())
        self.enter(progress, known + new)
        progress.num_computed = cached
        progress.num_registered = len(known)
        self.sharing.announce(progress, len(known))
        return True

    def enter(self, progress: Progress, pages: list[int]) -> None:
        """A waiting request becomes a running one, in a row of its own, or several."""
        row = self.rows.take(progress)
        if progress.request.is_search:
            self.searches.enter(progress, [row, *self.rows.take_more(progress.request.num_rows - 1)])
        self.rows.give(progress, pages)
        progress.started_at = progress.num_tokens
        insort(self.running, progress, key=_place)

    def spare(self, progress: Progress, num_free_rows: int) -> int:
        """Pages that stay free when a request starts beside others: one to grow for each of their rows and for the
        newcomer, so that it makes a page of tokens before it can be preempted; a search needs more. Alone it needs
        none: it fits the pool, or it would not be here."""
        rows = len(self.rows.table_RW) - num_free_rows
        return rows + 1 + self.searches.room(progress.request, again=progress.epoch > 0) if rows else 0

    def make_room(self, progress: Progress) -> bool:
        """Sees to a page for the newest token, at the cost of the last of the running requests if need be.

        That is the youngest of the worst priority, and rows are gone through in this order: what it loses has not been
        planned yet.
        """
        if progress.num_computed < len(progress.pages) * self.page_size:
            return True
        pages = self.allocate(progress, 1)
        if pages is None:
            return False
        self.rows.give(progress, pages)
        return True

    def make_room_for_beams(self) -> None:
        """Before the decoding rows get theirs: those that a search preempts here have not been planned yet."""
        for progress in self.searches.due():
            missing = self.searches.num_missing(progress)
            if missing is not None:
                pages = self.allocate(progress, missing)
                if pages is not None:
                    self.searches.give(progress, pages)

    def allocate(self, progress: Progress, num: int) -> list[int] | None:
        """Pages for a running request; None when it was itself the one to be preempted."""
        while (pages := self.pool.allocate(num)) is None:
            victim = self.running[-1]
            self.preempt(victim)
            if victim is progress:
                return None
        return pages

    def preempt(self, progress: Progress) -> None:
        """Takes pages and row back; the request returns to its place in the queue and is computed again."""
        self.answers.on_preempt(progress)
        self._leave(progress)
        progress.epoch += 1
        progress.num_computed = progress.num_registered = 0
        progress.is_prefilled = False
        insort(self.waiting, progress, key=_place)

    def _leave(self, progress: Progress) -> None:
        """Gives back what a running request holds."""
        if progress.row is None:
            return
        self.standing = None
        self.running.remove(progress)
        self.rows.leave(progress, self.searches.leave(progress))
        self.pool.release(progress.pages)
        progress.pages = []
        self.sharing.forget(progress)

    def end(self, progress: Progress, reason: FinishReason, *last: Any, **why: Any) -> TokenOutput:
        """The last news of a request, which holds nothing from now on; `last` and `why` as Answers.end takes them."""
        output = self.answers.end(progress, reason, *last, **why)
        self.remove(progress)
        return output

    def remove(self, progress: Progress) -> None:
        request = progress.request
        if progress.row is None:
            self.waiting.remove(progress)
        self._leave(progress)
        self.searches.remove(request)
        del self.by_id[request.request_id]
        self.answers.remove(request)

    def audit(self) -> None:
        """Checks that pages, rows and requests add up; raises kvcache.pool.InvariantBroken."""
        writable = (page for progress in self.running for page in progress.pages[self._first_open(progress) :])
        held = ([*progress.pages, *self.searches.held(progress)] for progress in self.by_id.values())
        self.pool.audit(held, chain(writable, self.searches.writable()))
        rows = [progress.row for progress in self.running if progress.row is not None] + self.searches.further_rows()
        free = self.rows.free
        if sorted(rows + free) != list(range(len(self.rows.table_RW))):
            raise InvariantBroken(f"rows {rows} running and {free} free are not every row once")
        if len(self.running) + len(self.waiting) != len(self.by_id):
            raise InvariantBroken("a live request is neither running nor waiting, or is both")

    def _first_open(self, progress: Progress) -> int:
        """The first of a request's pages that a step to come may write into."""
        return max(progress.num_registered, progress.num_computed // self.page_size)


def _place(progress: Progress) -> tuple[int, int]:
    return progress.place
