"""The decode batch kept from step to step while its rows and their sampling parameters stay the same.

Most steps decode the same rows, each one position further. Then nothing is decided row by row, except for rows that
need a page or have all their tokens: the cache knows the step in which each of them is due.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxserve.cache.pool import Fault
from jaxserve.engine.plan import DecodeBatch
from jaxserve.engine.row_table import RowTable
from jaxserve.engine.sequence import Sequence, gather_adapter_slots, gather_stops
from jaxserve.engine.values import equal_values
from jaxserve.sampling.sampler import SampleMode


@dataclass(slots=True, eq=False)
class DecodeBatchCache:
    """The rows of a decode batch as arrays, for as long as the request table's decode_version stays the same.

    version                     The request table's decode_version.
    sequences                   The sequences, one a row, in the order of the rows of all arrays.
    request_ids, epochs         Their request ids and epochs.
    row_B                       int32, their rows in the row table.
    positions                   The position of each row's newest token in the next step.
    page_tables_BW              int32 for each cache group, their rows of the row table's arrays, as they were at
    page_tables_version         this version of the row table.
    sampling_BS                 int32, their sampling parameters.
    mode                        The sampler's mode that serves all rows.
    logprob_token_ids           Pairs (index, ids), for rows that ask for log-probabilities by id.
    masked_indices              The indices of the rows that need a mask.
    guided                      The sequences that follow a grammar or a thinking budget.
    needs_previous_tokens       Whether a mask depends on the tokens before it.
    has_rows_below_min_tokens   Whether a row has not reached its min_tokens yet.
    max_tokens                  The most tokens that a row gets in a step.
    adapter_slot_B              int32, the slots of their adapters; None: no row has one.
    stops_BX                    int32, where they end; None: a row gets one token in a step.
    step                        The number of batches so far.
    due                         By the number of a step the indices of the rows that have all their tokens then, or lack
                                a page for the next ones. The other rows need no look at all.
    """

    version: int
    sequences: tuple[Sequence, ...]
    request_ids: tuple[int, ...]
    epochs: tuple[int, ...]
    row_B: np.ndarray
    positions: tuple[int, ...]
    page_tables_BW: tuple[np.ndarray, ...]
    page_tables_version: int
    sampling_BS: np.ndarray
    mode: SampleMode
    logprob_token_ids: tuple[tuple[int, tuple[int, ...]], ...]
    masked_indices: tuple[int, ...]
    guided: tuple[Sequence, ...]
    needs_previous_tokens: bool
    has_rows_below_min_tokens: bool
    max_tokens: int
    adapter_slot_B: np.ndarray | None = None
    stops_BX: np.ndarray | None = None
    step: int = 0
    due: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def from_sequences(
        cls,
        version: int,
        sequences: list[Sequence],
        capacities: list[int],
        rows: RowTable,
        max_logprobs: int,
        max_tokens: int,
    ) -> "DecodeBatchCache":
        """Build the batch of sequences that have a row each, and a page for their newest token.

        version        The request table's decode_version.
        capacities     For each sequence the first position that it has no page for.
        rows           The row table.
        max_logprobs   As in DecodeScheduler.
        max_tokens     The most tokens that a row gets in a step.
        """
        row_B = np.array([sequence.row for sequence in sequences], np.int32)
        batch = cls(
            version=version,
            sequences=tuple(sequences),
            request_ids=tuple([sequence.request.request_id for sequence in sequences]),
            epochs=tuple([sequence.epoch for sequence in sequences]),
            row_B=row_B,
            positions=tuple([sequence.num_computed for sequence in sequences]),
            page_tables_BW=rows.take_page_tables(row_B),
            page_tables_version=rows.version,
            sampling_BS=rows.sampling_RS.take(row_B, axis=0),
            mode=max([sequence.sample_mode(max_logprobs) for sequence in sequences]),
            logprob_token_ids=tuple(
                [
                    (index, sequence.request.params.logprob_token_ids)
                    for index, sequence in enumerate(sequences)
                    if sequence.request.params.logprob_token_ids
                ]
            ),
            masked_indices=tuple([index for index, sequence in enumerate(sequences) if sequence.needs_mask]),
            guided=tuple([sequence for sequence in sequences if sequence.is_guided]),
            needs_previous_tokens=any(
                [sequence.restrictions.needs_previous_tokens or sequence.is_guided for sequence in sequences]
            ),
            has_rows_below_min_tokens=any([sequence.is_below_min_tokens for sequence in sequences]),
            max_tokens=max_tokens,
            adapter_slot_B=gather_adapter_slots(sequences),
            stops_BX=gather_stops(sequences) if max_tokens > 1 else None,
        )
        for index, capacity in enumerate(capacities):
            batch.set_capacity(index, capacity)
        return batch

    def pop_due(self) -> list[int]:
        """Return the indices of the rows that have all their tokens or lack a page; `set_capacity` is due for them."""
        return self.due.pop(self.step, [])

    def set_capacity(self, index: int, capacity: int) -> None:
        """Take note of the first position that a row, whose next tokens have pages, has no page for."""
        sequence = self.sequences[index]
        limit = min(sequence.request.max_total_tokens - 1, capacity - self.max_tokens + 1)
        num_steps = max(1, -(-(limit - sequence.num_computed) // self.max_tokens))
        self.due.setdefault(self.step + num_steps, []).append(index)

    def update_page_tables(self, rows: RowTable) -> None:
        """Take the page tables again if the row table has changed."""
        if self.page_tables_version != rows.version:
            self.page_tables_BW, self.page_tables_version = rows.take_page_tables(self.row_B), rows.version

    def find_faults(self, rows: RowTable) -> Iterator[Fault]:
        """Yield what is not as in the row table or in the sequences, of which this is a copy."""
        positions = tuple(sequence.num_computed for sequence in self.sequences)
        epochs = tuple(sequence.epoch for sequence in self.sequences)
        if (positions, epochs) != (self.positions, self.epochs):
            yield "I11", "the decode batch has other positions or epochs than its sequences"
        if [sequence.row for sequence in self.sequences] != self.row_B.tolist():
            yield "I10", "the decode batch has other rows than its sequences"
        if (self.sampling_BS != rows.sampling_RS[self.row_B]).any():
            yield "I18", "the decode batch has other sampling parameters than the row table"
        if not equal_values(gather_adapter_slots(self.sequences), self.adapter_slot_B):
            yield "I18", "the decode batch has other adapters than its sequences"
        if self.page_tables_version != rows.version:
            return  # they are taken again before they are used
        for mine_BW, page_table_RW in zip(self.page_tables_BW, rows.page_tables_RW, strict=True):
            if (mine_BW != page_table_RW[self.row_B]).any():
                yield "I4", "the decode batch has other page tables than the row table"

    def advance(self) -> DecodeBatch:
        """Return the next decode batch; each sequence is max_tokens further afterwards, and these are pending."""
        batch = DecodeBatch(
            request_ids=self.request_ids,
            epochs=self.epochs,
            row_B=self.row_B,
            positions=self.positions,
            page_tables_BW=self.page_tables_BW,
            sampling_BS=self.sampling_BS,
            mode=self.mode,
            logprob_token_ids=self.logprob_token_ids,
            max_tokens=self.max_tokens,
            adapter_slot_B=self.adapter_slot_B,
            stops_BX=self.stops_BX,
        )
        self.step += 1
        self.positions = tuple([position + self.max_tokens for position in self.positions])
        for sequence in self.sequences:
            sequence.advance(self.max_tokens)
        return batch
