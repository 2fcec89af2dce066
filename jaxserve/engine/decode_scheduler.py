"""Scheduling of decode batches: which rows decode in a step, each with a page for its newest token."""

from collections.abc import Iterator

from jaxserve.cache.pool import Fault
from jaxserve.engine.decode_batch_cache import DecodeBatchCache
from jaxserve.engine.plan import MULTI_STEP_MODES, DecodeBatch
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence


class DecodeScheduler:
    """The planner of decode batches, one a step.

    requests                The live requests.
    max_logprobs            The most top log-probabilities that a step computes without those of the whole vocabulary.
    max_tokens_per_row      The most tokens that the runner's steps give a row. It is one in a step in which a row has a
                            mask, since that of the next token is not known yet, or asks for log-probabilities.

    masked_indices          The indices of the rows of the newest batch that have masks.
    needs_previous_tokens   Whether one of these masks depends on tokens that are still pending.
    """

    def __init__(self, requests: RequestTable, *, max_logprobs: int, max_tokens_per_row: int) -> None:
        self._requests, self._max_logprobs, self.max_tokens_per_row = requests, max_logprobs, max_tokens_per_row
        self._cache: DecodeBatchCache | None = None
        self.masked_indices: tuple[int, ...] = ()
        self.needs_previous_tokens = False

    def plan(self) -> DecodeBatch | None:
        """Return the next decode batch, or None if no row decodes. May preempt sequences for their pages."""
        cache = self._cache
        if cache is None or not self._can_reuse(cache):
            cache = self._cache = self._build_cache()
        if cache is None:
            return None
        self.masked_indices, self.needs_previous_tokens = cache.masked_indices, cache.needs_previous_tokens
        return cache.advance()

    def find_faults(self) -> Iterator[Fault]:
        """Yield where the batch that may be planned again differs from what it is a copy of."""
        if self._cache is not None and self._cache.version == self._requests.decode_version:
            yield from self._cache.find_faults(self._requests.rows)

    def _build_cache(self) -> DecodeBatchCache | None:
        """Gather all rows that decode, one by one."""
        requests, max_tokens = self._requests, self._choose_max_tokens()
        sequences: list[Sequence] = []
        for sequence in tuple(requests.running):
            if _decodes(sequence) and requests.ensure_decode_pages(sequence, max_tokens):
                self._roll_snapshot(sequence)
                sequences.append(sequence)
        if not sequences:
            return None
        capacities = [requests.cache.capacity(sequence.pages) for sequence in sequences]
        return DecodeBatchCache.from_sequences(
            requests.decode_version, sequences, capacities, requests.rows, self._max_logprobs, max_tokens
        )

    def _roll_snapshot(self, sequence: Sequence) -> None:
        """Plan the snapshot of a row at a page border. With several tokens a step the host does not know its place."""
        if self.max_tokens_per_row == 1:
            self._requests.roll_snapshot(sequence)

    def _choose_max_tokens(self) -> int:
        """Return the most tokens of a row in the next steps: one if a row needs what steps of several do not have."""
        if self.max_tokens_per_row == 1:
            return 1
        return self.max_tokens_per_row if all(map(self._may_get_several, self._requests.running)) else 1

    def _may_get_several(self, sequence: Sequence) -> bool:
        if not _decodes(sequence):
            return True
        return not sequence.needs_mask and sequence.sample_mode(self._max_logprobs) <= MULTI_STEP_MODES[-1]

    def _can_reuse(self, cache: DecodeBatchCache) -> bool:
        """Whether the same rows decode again; allocates a page for each row that needs one."""
        requests = self._requests
        if cache.version != requests.decode_version:
            return False
        if cache.has_rows_below_min_tokens or not all(sequence.is_guided for sequence in cache.guided):
            return False  # rows may need no masks any more
        for index in cache.pop_due():
            sequence = cache.sequences[index]
            if not sequence.needs_more_tokens:
                return False
            requests.ensure_decode_pages(sequence, cache.max_tokens)
            if cache.version != requests.decode_version:
                return False  # a sequence was preempted
            self._roll_snapshot(sequence)
            cache.set_capacity(index, requests.cache.capacity(sequence.pages))
        cache.update_page_tables(requests.rows)
        return True


def _decodes(sequence: Sequence) -> bool:
    is_ready = sequence.row is not None and sequence.is_prefilled and sequence.needs_more_tokens
    return is_ready and not sequence.request.is_beam_search
