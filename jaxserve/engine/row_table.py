"""Who sits in which row of the batch: free rows, and each row's line of the arrays that a step is made of."""

import numpy as np

from jaxserve.engine.sequence import Sequence
from jaxserve.sampling.lines import Line, line
from jaxserve.sampling.rows import NUM_COLUMNS


class RowTable:
    """Owned by the scheduler. One line per row, so that a whole batch is one fancy index instead of a loop.

    free_rows          rows that nobody has
    page_table_RW      int32, the pages of whoever has the row
    sampling_RS   int32, packed as sampling/rows.py says
    """

    def __init__(self, num_rows: int, *, max_pages: int, vocab_size: int) -> None:
        self.free_rows = list(range(num_rows - 1, -1, -1))
        self.page_table_RW = np.zeros((num_rows, max_pages), np.int32)
        self.sampling_RS = np.zeros((num_rows, NUM_COLUMNS), np.int32)
        self._vocab_size = vocab_size
        self._penalty_rows: list[tuple[int, Line]] = []

    @property
    def num_taken(self) -> int:
        return len(self.page_table_RW) - len(self.free_rows)

    def assign(self, sequence: Sequence) -> int:
        """A row for a request that begins to run, and a line of history if the sampler must know one."""
        request, row = sequence.request, self.free_rows.pop()
        sequence.row = row
        self.sampling_RS[row] = sequence.sampling_S
        if request.needs_penalty_state:
            answer = sequence.tokens[len(request.prompt_ids) :]
            new = line(request.prompt_ids, answer, request.params.logit_bias, self._vocab_size)
            self._penalty_rows.append((row, new))
        return row

    def assign_extra(self, num: int) -> list[int]:
        """Further rows for a search."""
        return [self.free_rows.pop() for _ in range(num)]

    def append_pages(self, sequence: Sequence, pages: list[int]) -> None:
        """The request holds these pages, too."""
        have = len(sequence.pages)
        sequence.pages.extend(pages)
        self.page_table_RW[sequence.row, have : have + len(pages)] = pages

    def free(self, sequence: Sequence, extra_rows: list[int]) -> None:
        """The request's row is free again, and the further ones of a search."""
        assert sequence.row is not None
        self.page_table_RW[sequence.row] = 0
        self.free_rows += [sequence.row, *extra_rows]
        sequence.row = None

    def pop_penalty_rows(self) -> tuple[tuple[int, Line], ...]:
        """Lines to be written before the next step, each once."""
        new, self._penalty_rows = self._penalty_rows, []
        return tuple(new)
