"""Who sits in which row of the batch: free rows, and each row's line of the arrays that a step is made of."""

import numpy as np

from jaxserve.engine.progress import Progress
from jaxserve.sampling.lines import Line, line
from jaxserve.sampling.rows import NUM_COLUMNS


class Rows:
    """Owned by the scheduler. One line per row, so that a whole batch is one fancy index instead of a loop.

    free          rows that nobody has
    table_RW      int32, the pages of whoever has the row
    sampling_RS   int32, packed as sampling/rows.py says
    """

    def __init__(self, num: int, *, max_pages: int, vocab_size: int) -> None:
        self.free = list(range(num - 1, -1, -1))
        self.table_RW = np.zeros((num, max_pages), np.int32)
        self.sampling_RS = np.zeros((num, NUM_COLUMNS), np.int32)
        self._vocab_size = vocab_size
        self._new_lines: list[tuple[int, Line]] = []

    @property
    def num_taken(self) -> int:
        return len(self.table_RW) - len(self.free)

    def take(self, progress: Progress) -> int:
        """A row for a request that begins to run, and a line of history if the sampler must know one."""
        request, row = progress.request, self.free.pop()
        progress.row = row
        self.sampling_RS[row] = progress.sampling_S
        if request.needs_line:
            answer = progress.tokens[len(request.prompt_ids) :]
            new = line(request.prompt_ids, answer, request.params.logit_bias, self._vocab_size)
            self._new_lines.append((row, new))
        return row

    def take_more(self, num: int) -> list[int]:
        """Further rows for a search."""
        return [self.free.pop() for _ in range(num)]

    def give(self, progress: Progress, pages: list[int]) -> None:
        """The request holds these pages, too."""
        have = len(progress.pages)
        progress.pages.extend(pages)
        self.table_RW[progress.row, have : have + len(pages)] = pages

    def leave(self, progress: Progress, further: list[int]) -> None:
        """The request's row is free again, and the further ones of a search."""
        assert progress.row is not None
        self.table_RW[progress.row] = 0
        self.free += [progress.row, *further]
        progress.row = None

    def new_lines(self) -> tuple[tuple[int, Line], ...]:
        """Lines to be written before the next step, each once."""
        new, self._new_lines = self._new_lines, []
        return tuple(new)
