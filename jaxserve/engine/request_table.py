"""The table of live requests, which starts, preempts and finishes them and holds their pages and rows.

Pages and rows are freed at once, even while a step in flight uses them: the device runs steps in the order in which
they were enqueued, so what such a step still writes into a page is overwritten by the next sequence that gets the page,
before it is read.
"""

import time
from bisect import insort
from collections.abc import Callable
from itertools import chain
from typing import Any

from jaxserve.cache.pool import CacheInvariantError, PagePool
from jaxserve.cache.prefix import PageHashes, PrefixIndex
from jaxserve.engine.beam_manager import BeamManager
from jaxserve.engine.decode_batch_cache import DecodeBatchCache
from jaxserve.engine.prefix_reuse import PrefixReuse
from jaxserve.engine.request import NO_TRACKERS, Request, TrackerFactory
from jaxserve.engine.request_outputs import RequestOutputs
from jaxserve.engine.row_table import RowTable
from jaxserve.engine.sequence import Sequence
from jaxserve.engine.stats import RequestGroup, Stats
from jaxserve.outputs import FinishReason, TokenOutput


class RequestTable:
    """The live requests, each with its sequence. Owned by the scheduler.

    pool                The free pages and the reference counts of the others.
    index               The prefix index; None: nothing is cached.
    stats               The metrics.
    page_size           The number of tokens of a page.
    max_num_seqs        The number of rows.
    max_pages_per_row   The width of a page table.
    vocab_size          The number of token ids.
    trackers            Makes the objects that follow outputs.
    clock               Monotonic seconds.

    by_id               The sequences by request id.
    waiting             The sequences without row and pages, by priority, then by arrival.
    running             The other sequences, in the same order.
    rows                The rows of the batch.
    prefix_reuse        Pages shared by prompts with the same beginning.
    request_outputs     Outputs and their metrics.
    beams               The beam searches.
    decode_cache        The decode batch of the last step; None after a row has joined or left it.
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
        trackers: TrackerFactory = NO_TRACKERS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.pool, self.stats, self.page_size, self.clock = pool, stats, page_size, clock
        self._vocab_size, self._trackers = vocab_size, trackers
        self.rows = RowTable(max_num_seqs, max_pages=max_pages_per_row, vocab_size=vocab_size)
        self.prefix_reuse = PrefixReuse(index, page_size)
        self.request_outputs = RequestOutputs(stats)
        self.beams = BeamManager(pool, page_size=page_size, max_pages_per_row=max_pages_per_row, vocab_size=vocab_size)
        self.by_id: dict[int, Sequence] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.decode_cache: DecodeBatchCache | None = None

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        """Queue a new request."""
        hashes = PageHashes(self.page_size, request.cache_salt)
        sequence = Sequence.from_request(request, hashes, self._vocab_size, self._trackers)
        self.by_id[request.request_id] = sequence
        self.request_outputs.add(request, group, self.clock())
        self.beams.add(sequence)
        insort(self.waiting, sequence, key=_queue_key)

    def try_start(self, sequence: Sequence) -> bool:
        """Start a waiting sequence with its cached pages, new pages for its other tokens, and rows.

        Returns False, and changes nothing, if there are not enough rows or pages.
        """
        if len(self.rows.free_rows) < sequence.request.num_rows:
            return False
        cached_pages = self.prefix_reuse.find_cached_pages(sequence)
        self.pool.incref(cached_pages)
        num_missing = -(-sequence.num_tokens // self.page_size) - len(cached_pages)
        watermark = self.watermark(sequence, len(self.rows.free_rows))
        new_pages = self.pool.allocate(num_missing) if num_missing + watermark <= self.pool.num_free else None
        if new_pages is None:
            self.pool.decref(cached_pages)
            return False
        request, num_cached_tokens = sequence.request, len(cached_pages) * self.page_size
        if self.prefix_reuse.is_enabled_for(sequence):
            self.stats.on_prefix(sequence.num_tokens, num_cached_tokens)
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = num_cached_tokens
        self.request_outputs.on_scheduled(request, num_cached_tokens, self.clock())
        self.start(sequence, cached_pages + new_pages)
        sequence.num_computed = num_cached_tokens
        sequence.num_registered_pages = len(cached_pages)
        self.prefix_reuse.mark_computing(sequence, len(cached_pages))
        return True

    def start(self, sequence: Sequence, pages: list[int]) -> None:
        """Move a sequence to the running ones, with these pages and a row, or several for a beam search."""
        row = self.rows.assign(sequence)
        if sequence.request.is_beam_search:
            self.beams.start(sequence, [row, *self.rows.assign_extra(sequence.request.num_rows - 1)])
        self.rows.append_pages(sequence, pages)
        sequence.num_tokens_at_start = sequence.num_tokens
        insort(self.running, sequence, key=_queue_key)

    def watermark(self, sequence: Sequence, num_free_rows: int) -> int:
        """Return the number of pages that must stay free when a sequence starts beside others.

        It is one for each row in use and one for the new sequence, which so decodes a page of tokens before it can be
        preempted; a beam search needs more. Without other sequences it is 0: a request that does not fit the pool is
        not accepted.
        """
        num_rows = len(self.rows.page_table_RW) - num_free_rows
        if not num_rows:
            return 0
        return num_rows + 1 + self.beams.watermark(sequence.request, is_resumed=sequence.epoch > 0)

    def ensure_pages(self, sequence: Sequence, num_tokens: int = 1) -> bool:
        """Make sure that a sequence has pages for its next num_tokens tokens; return False if it was preempted itself.

        Tokens beyond its length limit need none. If no page is free, the last of the running sequences is preempted:
        the youngest of the lowest priority. Rows are planned in the order of `running`, so the preempted sequence is
        not part of the plan yet.
        """
        end = min(sequence.num_computed + num_tokens, sequence.request.max_total_tokens)
        num_missing = -(-end // self.page_size) - len(sequence.pages)
        if num_missing <= 0:
            return True
        pages = self.allocate_pages(sequence, num_missing)
        if pages is None:
            return False
        self.rows.append_pages(sequence, pages)
        return True

    def ensure_beam_pages(self) -> None:
        """Make sure that every beam has a page for its newest token, at the cost of the last running sequences.

        To be called before decode rows are planned: a sequence preempted here must not be part of the plan.
        """
        for sequence in self.beams.list_ready():
            num_missing = self.beams.count_missing_pages(sequence)
            if num_missing is not None:
                pages = self.allocate_pages(sequence, num_missing)
                if pages is not None:
                    self.beams.append_pages(sequence, pages)

    def allocate_pages(self, sequence: Sequence, num: int) -> list[int] | None:
        """Return new pages for a running sequence; None if the sequence was preempted itself.

        If too few pages are free, the last running sequences are preempted.
        """
        while (pages := self.pool.allocate(num)) is None:
            victim = self.running[-1]
            self.preempt(victim)
            if victim is sequence:
                return None
        return pages

    def preempt(self, sequence: Sequence) -> None:
        """Free a sequence's pages and rows and put it back into the queue, to be computed again."""
        self.request_outputs.on_preempt(sequence)
        self._free(sequence)
        sequence.epoch += 1
        sequence.num_computed = sequence.num_registered_pages = 0
        sequence.is_prefilled = False
        insort(self.waiting, sequence, key=_queue_key)

    def _free(self, sequence: Sequence) -> None:
        """Free the rows and pages of a running sequence; a waiting one has none."""
        if sequence.row is None:
            return
        self.decode_cache = None
        self.running.remove(sequence)
        self.rows.free(sequence, self.beams.free(sequence))
        self.pool.decref(sequence.pages)
        sequence.pages = []
        self.prefix_reuse.unmark_computing(sequence)

    def finish(self, sequence: Sequence, reason: FinishReason, *args: Any, **kwargs: Any) -> TokenOutput:
        """Remove a request and return its last output; the arguments are those of RequestOutputs.finish."""
        output = self.request_outputs.finish(sequence, reason, *args, **kwargs)
        self.remove(sequence)
        return output

    def remove(self, sequence: Sequence) -> None:
        """Remove a request without an output and free its rows and pages."""
        request = sequence.request
        if sequence.row is None:
            self.waiting.remove(sequence)
        self._free(sequence)
        self.beams.remove(request)
        del self.by_id[request.request_id]
        self.request_outputs.remove(request)

    def audit(self) -> None:
        """Check that pages, rows and requests add up; raises CacheInvariantError if they do not."""
        writable = (page for sequence in self.running for page in sequence.pages[self._first_writable_page(sequence) :])
        page_lists = ([*sequence.pages, *self.beams.list_pages(sequence)] for sequence in self.by_id.values())
        self.pool.audit(page_lists, chain(writable, self.beams.iter_writable_pages()))
        rows = [sequence.row for sequence in self.running if sequence.row is not None] + self.beams.list_extra_rows()
        free = self.rows.free_rows
        if sorted(rows + free) != list(range(len(self.rows.page_table_RW))):
            raise CacheInvariantError(f"rows {rows} running and {free} free are not every row once")
        if len(self.running) + len(self.waiting) != len(self.by_id):
            raise CacheInvariantError("a live request is neither running nor waiting, or is both")

    def _first_writable_page(self, sequence: Sequence) -> int:
        """Return the index of the first of a sequence's pages that a later step may write into."""
        return max(sequence.num_registered_pages, sequence.num_computed // self.page_size)


def _queue_key(sequence: Sequence) -> tuple[int, int]:
    return sequence.queue_key
