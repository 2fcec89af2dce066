"""Every live request: whether it waits or runs, and what it holds. Begins, preempts and ends them.

Pages are counted in kvcache/pool.py, cached prefixes kept in kvcache/prefix.py, beams in beam_manager.py. Pages and
rows are given back at once, even while a step that uses them is under way: the device runs steps in the order in which
they were enqueued, so what a late step still writes into a page is overwritten by whoever gets the page next, before
anybody reads it.
"""

import time
from bisect import insort
from collections.abc import Callable
from itertools import chain
from typing import Any

from jaxserve.engine.beam_manager import BeamManager
from jaxserve.engine.decode_batch_cache import DecodeBatchCache
from jaxserve.engine.prefix_reuse import PrefixReuse
from jaxserve.engine.request import Request
from jaxserve.engine.request_outputs import RequestOutputs
from jaxserve.engine.row_table import RowTable
from jaxserve.engine.sequence import Sequence
from jaxserve.engine.stats import RequestGroup, Stats
from jaxserve.kvcache.pool import InvariantBroken, PagePool
from jaxserve.kvcache.prefix import KeyChain, PrefixIndex
from jaxserve.outputs import FinishReason, TokenOutput


class RequestTable:
    """Owned by the scheduler.

    by_id      every live request
    waiting    those without row and pages, and
    running    the others, both in order of priority, then of arrival
    decode_cache  the decode batch as it stands; None once somebody has joined or left
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
        self.rows = RowTable(max_num_seqs, max_pages=max_pages_per_row, vocab_size=vocab_size)
        self.prefix_reuse = PrefixReuse(index, page_size)
        self.request_outputs = RequestOutputs(stats)
        self.beams = BeamManager(pool, page_size=page_size, max_pages_per_row=max_pages_per_row, vocab_size=vocab_size)
        self.by_id: dict[int, Sequence] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.decode_cache: DecodeBatchCache | None = None

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        """A request comes, and waits."""
        sequence = Sequence.from_request(request, KeyChain(self.page_size, request.cache_salt), self._vocab_size)
        self.by_id[request.request_id] = sequence
        self.request_outputs.add(request, group, self.clock())
        self.beams.add(sequence)
        insort(self.waiting, sequence, key=_queue_key)

    def try_start(self, sequence: Sequence) -> bool:
        """Gives a waiting request its known pages, new ones for the rest of its tokens, and its rows; or nothing."""
        if len(self.rows.free_rows) < sequence.request.num_rows:
            return False
        known = self.prefix_reuse.find_cached_pages(sequence)
        self.pool.hold(known)
        missing = -(-sequence.num_tokens // self.page_size) - len(known)
        spare = self.watermark(sequence, len(self.rows.free_rows))
        new = self.pool.allocate(missing) if missing + spare <= self.pool.num_free else None
        if new is None:
            self.pool.release(known)
            return False
        request, cached = sequence.request, len(known) * self.page_size
        if self.prefix_reuse.is_enabled_for(sequence):
            self.stats.on_prefix(sequence.num_tokens, cached)
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = cached
        self.request_outputs.on_scheduled(request, cached, self.clock())
        self.start(sequence, known + new)
        sequence.num_computed = cached
        sequence.num_registered_pages = len(known)
        self.prefix_reuse.mark_computing(sequence, len(known))
        return True

    def start(self, sequence: Sequence, pages: list[int]) -> None:
        """A waiting request becomes a running one, in a row of its own, or several."""
        row = self.rows.assign(sequence)
        if sequence.request.is_beam_search:
            self.beams.start(sequence, [row, *self.rows.assign_extra(sequence.request.num_rows - 1)])
        self.rows.append_pages(sequence, pages)
        sequence.num_tokens_at_start = sequence.num_tokens
        insort(self.running, sequence, key=_queue_key)

    def watermark(self, sequence: Sequence, num_free_rows: int) -> int:
        """Pages that stay free when a request starts beside others: one to grow for each of their rows and for the
        newcomer, so that it makes a page of tokens before it can be preempted; a search needs more. Alone it needs
        none: it fits the pool, or it would not be here."""
        rows = len(self.rows.page_table_RW) - num_free_rows
        return rows + 1 + self.beams.watermark(sequence.request, is_resumed=sequence.epoch > 0) if rows else 0

    def ensure_page(self, sequence: Sequence) -> bool:
        """Sees to a page for the newest token, at the cost of the last of the running requests if need be.

        That is the youngest of the worst priority, and rows are gone through in this order: what it loses has not been
        planned yet.
        """
        if sequence.num_computed < len(sequence.pages) * self.page_size:
            return True
        pages = self.allocate_pages(sequence, 1)
        if pages is None:
            return False
        self.rows.append_pages(sequence, pages)
        return True

    def ensure_beam_pages(self) -> None:
        """Before the decoding rows get theirs: those that a search preempts here have not been planned yet."""
        for sequence in self.beams.list_ready():
            missing = self.beams.count_missing_pages(sequence)
            if missing is not None:
                pages = self.allocate_pages(sequence, missing)
                if pages is not None:
                    self.beams.append_pages(sequence, pages)

    def allocate_pages(self, sequence: Sequence, num: int) -> list[int] | None:
        """Pages for a running request; None when it was itself the one to be preempted."""
        while (pages := self.pool.allocate(num)) is None:
            victim = self.running[-1]
            self.preempt(victim)
            if victim is sequence:
                return None
        return pages

    def preempt(self, sequence: Sequence) -> None:
        """Takes pages and row back; the request returns to its place in the queue and is computed again."""
        self.request_outputs.on_preempt(sequence)
        self._free(sequence)
        sequence.epoch += 1
        sequence.num_computed = sequence.num_registered_pages = 0
        sequence.is_prefilled = False
        insort(self.waiting, sequence, key=_queue_key)

    def _free(self, sequence: Sequence) -> None:
        """Gives back what a running request holds."""
        if sequence.row is None:
            return
        self.decode_cache = None
        self.running.remove(sequence)
        self.rows.free(sequence, self.beams.free(sequence))
        self.pool.release(sequence.pages)
        sequence.pages = []
        self.prefix_reuse.unmark_computing(sequence)

    def finish(self, sequence: Sequence, reason: FinishReason, *last: Any, **why: Any) -> TokenOutput:
        """The last output of a request, which holds nothing from now on; arguments as for RequestOutputs.finish."""
        output = self.request_outputs.finish(sequence, reason, *last, **why)
        self.remove(sequence)
        return output

    def remove(self, sequence: Sequence) -> None:
        request = sequence.request
        if sequence.row is None:
            self.waiting.remove(sequence)
        self._free(sequence)
        self.beams.remove(request)
        del self.by_id[request.request_id]
        self.request_outputs.remove(request)

    def audit(self) -> None:
        """Checks that pages, rows and requests add up; raises kvcache.pool.InvariantBroken."""
        writable = (page for sequence in self.running for page in sequence.pages[self._first_writable_page(sequence) :])
        held = ([*sequence.pages, *self.beams.list_pages(sequence)] for sequence in self.by_id.values())
        self.pool.audit(held, chain(writable, self.beams.iter_writable_pages()))
        rows = [sequence.row for sequence in self.running if sequence.row is not None] + self.beams.list_extra_rows()
        free = self.rows.free_rows
        if sorted(rows + free) != list(range(len(self.rows.page_table_RW))):
            raise InvariantBroken(f"rows {rows} running and {free} free are not every row once")
        if len(self.running) + len(self.waiting) != len(self.by_id):
            raise InvariantBroken("a live request is neither running nor waiting, or is both")

    def _first_writable_page(self, sequence: Sequence) -> int:
        """The first of a request's pages that a step to come may write into."""
        return max(sequence.num_registered_pages, sequence.num_computed // self.page_size)


def _queue_key(sequence: Sequence) -> tuple[int, int]:
    return sequence.queue_key
