"""The rows of the batch: which are free, and the arrays from which the inputs of a step are gathered."""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

import numpy as np

from jaxserve.cache.pool import Fault
from jaxserve.engine.sequence import Sequence
from jaxserve.sampling.columns import NUM_COLUMNS
from jaxserve.sampling.penalties import PenaltyRow, build_row


class RowTable:
    """The rows of the batch, each with its page table and sampling parameters.

    The inputs of a batch are gathered from the arrays with one index operation instead of a loop.

    num_rows         The number of rows.
    widths           The width of a page table of each cache group.
    vocab_size       The number of token ids.

    free_rows        The rows without a sequence.
    page_tables_RW   int32 for each cache group: the pages of the sequence in each row, then zeros.
    sampling_RS      int32, its sampling parameters as columns (sampling/columns.py).
    version          Grows with every change of a page table.
    """

    def __init__(self, num_rows: int, *, widths: SequenceOf[int], vocab_size: int) -> None:
        self.num_rows, self.version = num_rows, 0
        self.page_tables_RW = tuple(np.zeros((num_rows, width), np.int32) for width in widths)
        self.sampling_RS = np.zeros((num_rows, NUM_COLUMNS), np.int32)
        self._vocab_size = vocab_size
        self.reset()

    def reset(self) -> None:
        """Make all rows free."""
        self.version += 1
        self.free_rows = list(range(self.num_rows - 1, -1, -1))
        self._penalty_rows: list[tuple[int, PenaltyRow]] = []
        for page_table_RW in self.page_tables_RW:
            page_table_RW[:] = 0

    @property
    def num_taken(self) -> int:
        """The number of rows in use."""
        return self.num_rows - len(self.free_rows)

    def assign(self, sequence: Sequence) -> int:
        """Take a row for a sequence and return it; its penalty state is queued if it has penalties or biases."""
        request, row = sequence.request, self.free_rows.pop()
        self.sampling_RS[row] = sequence.sampling_S
        if request.needs_penalty_state:
            output_ids = sequence.tokens[len(request.prompt_ids) :]
            penalties = build_row(request.prompt_ids, output_ids, request.params.logit_bias, self._vocab_size)
            self._penalty_rows.append((row, penalties))
        return row

    def assign_extra(self, num: int) -> list[int]:
        """Take further rows, for the other beams of a beam search."""
        return [self.free_rows.pop() for _ in range(num)]

    def write_pages(self, sequence: Sequence, starts: SequenceOf[int]) -> None:
        """Write the pages of a sequence to the page tables of its row, in each group from the page starts[group] on."""
        self.version += 1
        for page_table_RW, pages, start in zip(self.page_tables_RW, sequence.pages.by_group, starts, strict=True):
            page_table_W = page_table_RW[sequence.row]
            for index in range(start, len(pages)):  # mostly one
                page_table_W[index] = pages[index]

    def write_freed_pages(self, sequence: Sequence) -> None:
        """Write zeros to the page tables of a sequence's row for its pages that are freed."""
        self.version += 1
        for page_table_RW, num_freed in zip(self.page_tables_RW, sequence.pages.num_freed, strict=True):
            page_table_RW[sequence.row, :num_freed] = 0

    def clear_pages(self, sequence: Sequence) -> None:
        """Write zeros to the page tables of a sequence's row."""
        self.version += 1
        for page_table_RW in self.page_tables_RW:
            page_table_RW[sequence.row] = 0

    def take_page_tables(self, row_B: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return copies of the page tables of some rows, int32 [B, W] for each cache group."""
        return tuple([page_table_RW.take(row_B, axis=0) for page_table_RW in self.page_tables_RW])

    def free(self, sequence: Sequence, extra_rows: list[int]) -> None:
        """Free the row of a sequence, and the other rows of a beam search."""
        assert sequence.row is not None
        self.clear_pages(sequence)
        self.free_rows += [sequence.row, *extra_rows]

    @property
    def num_queued_penalties(self) -> int:
        """The number of penalty states that are to be written before the next step."""
        return len(self._penalty_rows)

    def find_faults(self, sequences: SequenceOf[Sequence]) -> Iterator[Fault]:
        """Yield the rows whose page tables or sampling parameters are not those of the running sequences."""
        for group, page_table_RW in enumerate(self.page_tables_RW):
            expected_RW = np.zeros_like(page_table_RW)
            for sequence in sequences:
                pages = sequence.pages.by_group[group]
                expected_RW[sequence.row, : len(pages)] = pages
            rows = np.flatnonzero((expected_RW != page_table_RW).any(axis=1)).tolist()
            if rows:
                yield "I4", f"the page tables of rows {rows} in group {group} are not those of sequences"
        for sequence in sequences:
            if (self.sampling_RS[sequence.row] != sequence.sampling_S).any():
                yield "I18", f"row {sequence.row} has other sampling parameters than its sequence"

    def pop_penalty_rows(self) -> tuple[tuple[int, PenaltyRow], ...]:
        """Return the queued (row, penalty state) pairs, to be written before the next step."""
        penalty_rows, self._penalty_rows = self._penalty_rows, []
        return tuple(penalty_rows)
