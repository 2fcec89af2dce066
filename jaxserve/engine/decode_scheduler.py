"""Which rows decode in a step, and whether they all have a page for their newest token."""

import numpy as np

from jaxserve.engine.decode_batch_cache import DecodeBatchCache
from jaxserve.engine.plan import DecodeBatch
from jaxserve.engine.request_table import RequestTable
from jaxserve.engine.sequence import Sequence


class DecodeScheduler:
    """Plans the decode batches.

    masked_indices   of the newest batch: places of rows with masks,
    needs_previous_tokens    and whether one of these depends on tokens that are not home yet
    """

    def __init__(self, requests: RequestTable, *, max_logprobs: int) -> None:
        self._requests, self._max_logprobs = requests, max_logprobs
        self.masked_indices: tuple[int, ...] = ()
        self.needs_previous_tokens = False

    def plan(self) -> DecodeBatch | None:
        standing = self._requests.decode_cache
        if standing is None or not self._can_reuse(standing):
            standing = self._requests.decode_cache = self._build_cache()
        if standing is None:
            return None
        decode = standing.advance()
        self.masked_indices, self.needs_previous_tokens = standing.masked_indices, standing.needs_previous_tokens
        if standing.has_rows_below_min_tokens:  # until when is counted in tokens, so look again next time
            self._requests.decode_cache = None
        return decode

    def _build_cache(self) -> DecodeBatchCache | None:
        """All rows that decode, looked at one by one."""
        members: list[Sequence] = []
        for sequence in tuple(self._requests.running):
            decodes = sequence.row is not None and sequence.is_prefilled and sequence.needs_more_tokens
            if decodes and not sequence.request.is_beam_search and self._requests.ensure_page(sequence):
                members.append(sequence)
        if not members:
            return None
        rows = self._requests.rows
        return DecodeBatchCache.from_sequences(
            members, self._requests.page_size, rows.page_table_RW, rows.sampling_RS, self._max_logprobs
        )

    def _can_reuse(self, standing: DecodeBatchCache) -> bool:
        """Whether the same rows decode again; sees to a page for those that need one."""
        if not all(one.is_guided for one in standing.guided):
            return False
        if (standing.position_B >= standing.end_B).any():
            return False
        needy = np.flatnonzero(standing.position_B >= standing.capacity_B)
        for at in needy.tolist():
            if not self._requests.ensure_page(standing.sequences[at]) or self._requests.decode_cache is None:
                return False  # somebody was preempted
        if len(needy):
            standing.capacity_B[needy] += self._requests.page_size
            standing.page_table_BW = self._requests.rows.page_table_RW.take(standing.row_B, axis=0)
        return True
