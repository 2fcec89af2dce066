"""The table of live requests, which starts, preempts and finishes them and holds their rows.

Rows are freed at once, like pages (cache/manager.py), even while a step in flight uses them: the device runs steps in
the order in which they were enqueued, so what such a step still writes is overwritten before it is read.
"""

import time
from bisect import insort
from collections.abc import Callable
from typing import Any

from jaxserve.cache.groups import PageCopy
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.prefix import CacheContext
from jaxserve.cache.sequence_pages import PrefixHit
from jaxserve.cache.snapshots import INTERVAL_TOKENS, MAX_PER_PROMPT, Snapshots
from jaxserve.engine.adapter_slots import AdapterSlots
from jaxserve.engine.beam_manager import BeamManager
from jaxserve.engine.caller_turns import CallerTurns
from jaxserve.engine.plan import SampledTokens
from jaxserve.engine.prefix_reuse import PrefixReuse
from jaxserve.engine.request import NO_TRACKERS, Request, TrackerFactory
from jaxserve.engine.request_outputs import RequestOutputs
from jaxserve.engine.row_table import RowTable
from jaxserve.engine.sequence import Sequence
from jaxserve.engine.stats import RequestGroup, Stats
from jaxserve.outputs import FinishReason, TokenOutput


class RequestTable:
    """The live requests, each with its sequence. Owned by the scheduler.

    cache               The pages of all sequences.
    stats               The metrics.
    max_num_seqs        The number of rows.
    max_pages_per_row   The most pages of a row.
    max_chunk_tokens    The largest chunk of a prompt in one step.
    vocab_size          The number of token ids.
    trackers            Makes the objects that follow outputs.
    num_adapter_slots   The number of adapters that may be on the device together.
    clock               Monotonic seconds.

    by_id               The sequences by request id.
    waiting             The sequences without row and pages, by priority, then by turns of their callers.
    running             The other sequences, in the same order.
    rows                The rows of the batch.
    prefix_reuse        Pages shared by prompts with the same beginning.
    request_outputs     Outputs and their metrics.
    beams               The beam searches.
    adapters            The adapters on the device.
    decode_version      Grows when a sequence begins or ceases to decode, and when one gets fewer tokens than planned.
    """

    def __init__(
        self,
        cache: CacheManager,
        stats: Stats,
        *,
        max_num_seqs: int,
        max_pages_per_row: int,
        max_chunk_tokens: int,
        vocab_size: int,
        trackers: TrackerFactory = NO_TRACKERS,
        num_adapter_slots: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache, self.stats, self.page_size, self.clock = cache, stats, cache.page_size, clock
        self._max_chunk_tokens, self._vocab_size, self._trackers = max_chunk_tokens, vocab_size, trackers
        widths = [size.page_table_width(max_pages_per_row) for size in cache.sizes]
        self.rows = RowTable(max_num_seqs, widths=widths, vocab_size=vocab_size)
        self.prefix_reuse = PrefixReuse(cache)
        self.request_outputs = RequestOutputs(stats)
        self.beams = BeamManager(cache, max_pages_per_row=max_pages_per_row, vocab_size=vocab_size)
        self.adapters = AdapterSlots(num_adapter_slots)
        self.by_id: dict[int, Sequence] = {}
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._turns = CallerTurns()
        self.decode_version = 0

    def add(self, request: Request, group: RequestGroup | None = None) -> None:
        """Queue a new request."""
        context = CacheContext(salt=request.cache_salt)
        if (adapter := request.adapter) is not None:
            context = CacheContext(salt=request.cache_salt, adapter=adapter.key, adapter_name=adapter.name)
        pages = self.cache.new_pages(context)
        turn = self._turns.assign(request.caller)
        sequence = Sequence.from_request(request, pages, turn, self._vocab_size, self._trackers)
        self.request_outputs.add(request, group, self.clock())
        self.beams.add(sequence)
        self.by_id[request.request_id] = sequence
        insort(self.waiting, sequence, key=_queue_key)

    def try_start(self, sequence: Sequence) -> bool:
        """Start a waiting sequence with its cached pages, new pages for its other tokens, and rows.

        Returns False, and changes nothing, if there are not enough rows or pages, or no slot for its adapter.
        """
        if len(self.rows.free_rows) < sequence.request.num_rows or not self.has_slot_for(sequence):
            return False
        hit = self.prefix_reuse.find_hit(sequence)
        watermarks = self.watermarks(sequence, len(self.rows.free_rows))
        copies = self.cache.start(sequence.pages, hit, self.count_missing_pages(sequence, hit), watermarks)
        if copies is None:
            return False
        self.cache.page_copies.plan(copies)
        request, num_cached_tokens = sequence.request, hit.num_pages * self.page_size
        if self.prefix_reuse.is_enabled_for(sequence):
            self.stats.on_prefix(sequence.num_tokens, num_cached_tokens)
        self.request_outputs.on_scheduled(request, num_cached_tokens, self.clock())
        row = self.rows.assign(sequence)
        borders = self.prefix_reuse.find_borders(sequence, hit) if self.cache.snapshots is not None else ()
        sequence.start(row, self.adapters.acquire(request.adapter), num_cached_tokens, borders)
        if request.is_beam_search:
            self.beams.start(sequence, [row, *self.rows.assign_extra(request.num_rows - 1)])
        self._move_to_running(sequence)
        self.prefix_reuse.mark_computing(sequence, hit.num_pages)
        return True

    def has_slot_for(self, sequence: Sequence) -> bool:
        """Whether the adapter of a waiting sequence is on the device or could be."""
        return self.adapters.has_room(sequence.request.adapter)

    def count_missing_pages(self, sequence: Sequence, hit: PrefixHit) -> tuple[int, ...]:
        """Return by cache group how many pages a sequence needs at its start besides those of a hit."""
        return self.cache.count_missing(hit, sequence.num_tokens, self._max_chunk_tokens)

    def try_fork(self, parent: Sequence, child: Sequence) -> list[PageCopy] | None:
        """Start a waiting sequence behind the tokens of a running one, with its pages.

        Returns the page copies to make before the next step; None, without any change, if there is no row or too few
        pages.
        """
        if not self.rows.free_rows:
            return None
        num_tokens = len(parent.tokens)
        self.cache.fork(parent.pages, child.pages, num_tokens)
        copies = self.cache.append(child.pages, num_tokens, self.watermarks(child, len(self.rows.free_rows)))
        if copies is None:
            self.cache.free(child.pages)
            return None
        self.adapters.acquire(child.request.adapter)
        child.start_behind(parent, self.rows.assign(child))
        self._move_to_running(child)
        self.decode_version += 1
        return copies

    def _move_to_running(self, sequence: Sequence) -> None:
        """Move a sequence that has its pages and its row from the waiting to the running ones."""
        self.rows.write_pages(sequence, (0,) * len(self.cache.sizes))
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_queue_key)
        if self._turns.on_start(sequence.turn):
            self._promote_oldest()

    def _promote_oldest(self) -> None:
        """Move the oldest waiting request of the highest priority that waits to the beginning of the queue."""
        if not self.waiting:
            return
        first = self.waiting[0]
        highest = first.request.params.priority
        same = [sequence for sequence in self.waiting if sequence.request.params.priority == highest]
        oldest = min(same, key=lambda sequence: sequence.request.request_id)
        self.waiting.remove(oldest)
        oldest.promote(first.turn)
        insort(self.waiting, oldest, key=_queue_key)

    def compute_chunk(self, sequence: Sequence, end: int) -> bool:
        """Count the tokens of a prompt before `end` as computed; return whether a token is sampled after them."""
        if self.cache.snapshots is not None:
            self._plan_snapshot(self.cache.snapshots, sequence)
        is_last = sequence.compute_chunk(end)
        self.decode_version += sequence.is_prefilled
        return is_last

    def _plan_snapshot(self, snapshots: Snapshots, sequence: Sequence) -> None:
        """Plan a snapshot of what is computed of a prompt, if it is a border, or far behind the last one."""
        position, pages = sequence.num_computed, sequence.pages
        interval = max(INTERVAL_TOKENS, len(sequence.tokens) // MAX_PER_PROMPT)
        is_due = position in sequence.borders or position - pages.last_snapshot >= interval
        if is_due and snapshots.is_missing(pages, sequence.tokens, position):
            self.cache.page_copies.plan(snapshots.plan(pages, position))

    def roll_snapshot(self, sequence: Sequence) -> None:
        """Plan the snapshot of a sequence that generates, if it is at a page border."""
        if self.cache.snapshots is not None:
            self.cache.page_copies.plan(self.cache.snapshots.roll(sequence.pages, sequence.num_computed))

    def watermarks(self, sequence: Sequence, num_free_rows: int) -> tuple[int, ...]:
        """Return by cache group the number of pages that must stay free when a sequence starts beside others.

        It is one for each row in use and one for the new sequence, which so decodes a page of tokens before it can be
        preempted; a beam search needs more. Without other sequences it is 0: a request that does not fit the pool is
        not accepted.
        """
        num_rows = self.rows.num_rows - num_free_rows
        if not num_rows:
            return (0,) * len(self.cache.sizes)
        beams = self.beams.watermarks(sequence.request, is_resumed=sequence.epoch > 0)
        sizes = self.cache.sizes  # a row has its slot, and needs no others
        return tuple(0 if size.is_recurrent else num_rows + 1 + num for size, num in zip(sizes, beams, strict=True))

    def ensure_decode_pages(self, sequence: Sequence, num_tokens: int) -> bool:
        """Make sure that a sequence has pages for its next num_tokens tokens; return False if it was preempted itself.

        The last token before its length limit is never computed, and needs none.
        """
        end = min(sequence.num_computed + num_tokens, sequence.request.max_total_tokens - 1)
        return self.ensure_pages(sequence, end)

    def ensure_pages(self, sequence: Sequence, end: int) -> bool:
        """Make sure that a sequence has pages for its tokens before `end`; return False if it was preempted itself.

        If too few pages are free, the last of the running sequences is preempted: the youngest of the lowest priority.
        Rows are planned in the order of `running`, so the preempted sequence is not part of the plan yet.
        """
        if end <= self.cache.capacity(sequence.pages):
            return True
        starts = sequence.pages.lengths
        while self.cache.append(sequence.pages, end) is None:
            if not self._preempt_last_for(sequence):
                return False
        self.rows.write_pages(sequence, starts)
        return True

    def ensure_chunk_pages(self, budget: int) -> None:
        """Make sure that running prompts have pages for their next chunks, at the cost of the last running sequences.

        At their start they got those of full groups, but of window groups only those of their first chunk. To be called
        before decode rows are planned: a sequence preempted here must not be part of the plan.

        budget   The largest number of tokens of the step.
        """
        for sequence in tuple(self.running) if self.cache.has_windows else ():
            if budget > 0 and sequence.row is not None and not sequence.is_prefilled:
                num_tokens = len(sequence.tokens) - sequence.num_computed
                num_tokens = min(num_tokens, budget, self._max_chunk_tokens)
                budget -= num_tokens
                self.ensure_pages(sequence, sequence.num_computed + num_tokens)

    def ensure_beam_pages(self) -> None:
        """Make sure that every beam has a page for its newest token, at the cost of the last running sequences.

        To be called before decode rows are planned: a sequence preempted here must not be part of the plan.
        """
        for sequence in self.beams.list_ready():
            while sequence.row is not None and not self.beams.append_pages(sequence):
                self._preempt_last_for(sequence)

    def _preempt_last_for(self, sequence: Sequence) -> bool:
        """Preempt the last of the running sequences; return False if it is the one that needs pages."""
        victim = self.running[-1]
        self.preempt(victim)
        return victim is not sequence

    def retract(self, sequence: Sequence, num_tokens: int, epoch: int) -> None:
        """Take back tokens that a decode step planned in this epoch has not brought."""
        sequence.retract(num_tokens, epoch)
        self.decode_version += 1

    def on_written(self, sequence: Sequence, num_written: int) -> None:
        """Register the pages that a finished step has filled, and free those that the sequence needs no longer.

        num_written   The number of the sequence's tokens whose keys and values are written.
        """
        first_page = sequence.pages.num_registered
        has_freed = self.cache.register(sequence.pages, sequence.tokens, num_written)
        if self.cache.snapshots is not None:
            self.prefix_reuse.unmark_borders(sequence, num_written)
        elif sequence.pages.num_registered > first_page:
            self.prefix_reuse.unmark_computing(sequence, first_page)
        if has_freed:
            self.rows.write_freed_pages(sequence)

    def advance_beams(self, sequence: Sequence, sampled: SampledTokens) -> bool:
        """Advance a beam search by the candidates of its beams, or of its prompt; return whether it is over."""
        is_over = self.beams.advance(sequence, sampled)
        self.rows.clear_pages(sequence)  # the pages are with the beams, which have page tables of their own
        return is_over

    def preempt(self, sequence: Sequence) -> None:
        """Free a sequence's pages and rows and put it back into the queue, to be computed again."""
        self.request_outputs.on_preempt(sequence)
        self._free(sequence)
        sequence.preempt()
        insort(self.waiting, sequence, key=_queue_key)

    def restart(self) -> None:
        """Let every sequence wait, to be computed again from the tokens on the host; all pages and rows are free.

        For when the device state is lost, or a plan was interrupted anywhere. The prefix cache is empty afterwards.
        """
        self.cache.reset()
        self.rows.reset()
        self.adapters.reset()
        self.prefix_reuse = PrefixReuse(self.cache)
        self.decode_version += 1
        for sequence in self.by_id.values():
            if sequence.row is not None:
                self.request_outputs.on_preempt(sequence)
            self.beams.restart(sequence)
            sequence.restart()
        self.running, self.waiting = [], sorted(self.by_id.values(), key=_queue_key)

    def count_progress(self, sequence: Sequence) -> int:
        """Return the number of a sequence's tokens on the host, those of its beams included."""
        return len(sequence.tokens) + self.beams.count_tokens(sequence)

    def _free(self, sequence: Sequence) -> None:
        """Free the rows and pages of a running sequence; a waiting one has none."""
        if sequence.row is None:
            return
        self.decode_version += 1
        self.running.remove(sequence)
        self.rows.free(sequence, self.beams.free(sequence))
        self.cache.free(sequence.pages)
        self.adapters.release(sequence.request.adapter)
        self.prefix_reuse.unmark_computing(sequence)

    def finish(self, sequence: Sequence, reason: FinishReason, *args: Any, **kwargs: Any) -> TokenOutput:
        """Remove a request and return its last output; the arguments are those of RequestOutputs.finish."""
        output = self.request_outputs.finish(sequence, reason, *args, **kwargs)
        self.remove(sequence)
        return output

    def fail(self, request: Request) -> None:
        """Remove a request wherever its work was interrupted, or before it was added.

        If it raises, the request is removed and its pages and rows are lost until `restart`.
        """
        sequence = self.by_id.get(request.request_id)
        try:
            if sequence is not None:
                self._remove(sequence)
        finally:
            self.by_id.pop(request.request_id, None)
            self.beams.remove(request)
            self.request_outputs.fail(request)

    def remove(self, sequence: Sequence) -> None:
        """Remove a request without an output and free its rows and pages."""
        self._remove(sequence)
        self.beams.remove(sequence.request)
        self.request_outputs.remove(sequence.request)

    def _remove(self, sequence: Sequence) -> None:
        if sequence.row is None:
            self.waiting.remove(sequence)
        self._free(sequence)
        sequence.finish()
        del self.by_id[sequence.request.request_id]


def _queue_key(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.queue_key
