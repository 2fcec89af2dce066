"""The rows of the batch: which are free, and the arrays from which the inputs of a step are gathered."""

import numpy as np

from jaxserve.engine.sequence import Sequence
from jaxserve.sampling.columns import NUM_COLUMNS
from jaxserve.sampling.penalties import PenaltyRow, build_row


class RowTable:
    """The rows of the batch, each with its page table and sampling parameters.

    The inputs of a batch are gathered from the arrays with one index operation instead of a loop.

    num_rows        The number of rows.
    max_pages       The width of a page table.
    vocab_size      The number of token ids.

    free_rows       The rows without a sequence.
    page_table_RW   int32, the pages of the sequence in each row, then zeros.
    sampling_RS     int32, its sampling parameters as columns (sampling/columns.py).
    """

    def __init__(self, num_rows: int, *, max_pages: int, vocab_size: int) -> None:
        self.free_rows = list(range(num_rows - 1, -1, -1))
        self.page_table_RW = np.zeros((num_rows, max_pages), np.int32)
        self.sampling_RS = np.zeros((num_rows, NUM_COLUMNS), np.int32)
        self._vocab_size = vocab_size
        self._penalty_rows: list[tuple[int, PenaltyRow]] = []

    @property
    def num_taken(self) -> int:
        """The number of rows in use."""
        return len(self.page_table_RW) - len(self.free_rows)

    def assign(self, sequence: Sequence) -> int:
        """Give a sequence a row and return it; its penalty state is queued if it has penalties or biases."""
        request, row = sequence.request, self.free_rows.pop()
        sequence.row = row
        self.sampling_RS[row] = sequence.sampling_S
        if request.needs_penalty_state:
            output_ids = sequence.tokens[len(request.prompt_ids) :]
            penalties = build_row(request.prompt_ids, output_ids, request.params.logit_bias, self._vocab_size)
            self._penalty_rows.append((row, penalties))
        return row

    def assign_extra(self, num: int) -> list[int]:
        """Take further rows, for the other beams of a beam search."""
        return [self.free_rows.pop() for _ in range(num)]

    def append_pages(self, sequence: Sequence, pages: list[int]) -> None:
        """Append pages to a sequence and to the page table of its row."""
        start = len(sequence.pages)
        sequence.pages.extend(pages)
        self.page_table_RW[sequence.row, start : start + len(pages)] = pages

    def free(self, sequence: Sequence, extra_rows: list[int]) -> None:
        """Free the row of a sequence, and the other rows of a beam search."""
        assert sequence.row is not None
        self.page_table_RW[sequence.row] = 0
        self.free_rows += [sequence.row, *extra_rows]
        sequence.row = None

    def pop_penalty_rows(self) -> tuple[tuple[int, PenaltyRow], ...]:
        """Return the queued (row, penalty state) pairs, to be written before the next step."""
        penalty_rows, self._penalty_rows = self._penalty_rows, []
        return tuple(penalty_rows)
