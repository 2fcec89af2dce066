"""StepPlan → padded numpy arrays. Pure, and the only place that knows how a step is packed.

A call's whole input is one int32 matrix, one line per row, so that a step costs one transfer:

    row | position | count | sampling columns | page table | token ids (prompt chunks only)

position is that of the row's first query, count the number of its real queries; a padding line has count 0.
Under batch invariance there is one shape for everything: a line has one token, which in decode is LAST_TOKEN, and a
prompt chunk has a line for each of its tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxserve.engine.plan import Chunk, DecodeBatch
from jaxserve.sampling.columns import NUM_COLUMNS, empty_row
from jaxserve.sampling.penalties import num_words
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

ROW, POSITION, COUNT, SAMPLING = 0, 1, 2, 3
NUM_SAMPLER_COLUMNS = SAMPLING + NUM_COLUMNS  # columns that the sampler needs
LAST_TOKEN = -1  # in place of a token id: the row's newest one, which lies on the device


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie in a line: W pages, and room for C tokens (0 in decode, whose tokens are on the device)."""

    max_pages_per_row: int
    num_tokens: int = 0

    @property
    def page_table(self) -> slice:
        return slice(NUM_SAMPLER_COLUMNS, NUM_SAMPLER_COLUMNS + self.max_pages_per_row)

    @property
    def tokens(self) -> slice:
        return slice(NUM_SAMPLER_COLUMNS + self.max_pages_per_row, self.num_columns)

    @property
    def num_columns(self) -> int:
        return NUM_SAMPLER_COLUMNS + self.max_pages_per_row + self.num_tokens


def empty(layout: Layout, num_rows: int, pad_row: int) -> np.ndarray:
    """Padding lines, int32 [num_rows, X]: nothing to compute, greedy, pages and tokens 0, row pad_row."""
    packed = np.zeros((num_rows, layout.num_columns), np.int32)
    packed[:, ROW] = pad_row
    packed[:, SAMPLING:NUM_SAMPLER_COLUMNS] = empty_row()
    return packed


def pack_decode(batch: DecodeBatch, layout: Layout, num_rows: int, pad_row: int) -> np.ndarray:
    """A decode batch in num_rows lines."""
    packed, n = empty(layout, num_rows, pad_row), len(batch)
    packed[:n, ROW] = batch.row_B
    packed[:n, POSITION] = batch.position_B
    packed[:n, COUNT] = 1
    packed[:n, SAMPLING:NUM_SAMPLER_COLUMNS] = batch.sampling_BS
    packed[:n, layout.page_table] = batch.page_table_BW
    packed[:n, layout.tokens] = LAST_TOKEN
    return packed


def pack_chunk(chunk: Chunk, layout: Layout) -> np.ndarray:
    """A prompt chunk in one line."""
    packed = empty(layout, 1, chunk.row)
    packed[0, POSITION] = chunk.start
    packed[0, COUNT] = len(chunk.token_ids)
    packed[0, SAMPLING:NUM_SAMPLER_COLUMNS] = chunk.sampling_S
    packed[0, layout.page_table] = chunk.page_table_W
    packed[
        0,
        NUM_SAMPLER_COLUMNS + layout.max_pages_per_row : NUM_SAMPLER_COLUMNS
        + layout.max_pages_per_row
        + len(chunk.token_ids),
    ] = chunk.token_ids
    return packed


def pack_chunk_as_rows(chunk: Chunk, layout: Layout, num_rows: int, pad_row: int) -> np.ndarray:
    """A prompt chunk with a line for each token. Only the last one draws for the request and leaves its token there."""
    packed, n = empty(layout, num_rows, pad_row), len(chunk.token_ids)
    packed[:n, POSITION] = np.arange(chunk.start, chunk.end)
    packed[:n, COUNT] = 1
    packed[:n, layout.page_table] = chunk.page_table_W
    packed[:n, layout.tokens] = chunk.token_ids[:, None]
    packed[n - 1, ROW] = chunk.row
    packed[n - 1, SAMPLING:NUM_SAMPLER_COLUMNS] = chunk.sampling_S
    return packed


def sampler_columns(
    row: int, sampling_S: np.ndarray, position: int, at: int, num_rows: int, pad_row: int
) -> np.ndarray:
    """The sampler's columns alone, int32 [num_rows, NUM_SAMPLER_COLUMNS].

    Line `at` samples the token for `position` in this row.
    """
    head = empty(Layout(0), num_rows, pad_row)
    head[at, ROW], head[at, POSITION] = row, position
    head[at, SAMPLING:NUM_SAMPLER_COLUMNS] = sampling_S
    return head


def allow_all(num_rows: int, vocab_size: int) -> np.ndarray:
    """A mask that forbids nothing: uint32 [num_rows, ceil(V / 32)], a bit per token id."""
    return np.full((num_rows, num_words(vocab_size)), 0xFFFFFFFF, np.uint32)


def scatter_masks(masks: Iterable[tuple[int, np.ndarray]], num_rows: int, vocab_size: int) -> np.ndarray:
    """Each (line, mask) where it belongs; the other lines allow all."""
    packed = allow_all(num_rows, vocab_size)
    for at, mask_M in masks:
        packed[at] = mask_M
    return packed


def scatter_logprob_token_ids(wanted: Iterable[tuple[int, tuple[int, ...]]], num_rows: int) -> np.ndarray:
    """int32 [num_rows, MAX_LOGPROB_TOKEN_IDS]: each line's ids, then zeros."""
    packed = np.zeros((num_rows, MAX_LOGPROB_TOKEN_IDS), np.int32)
    for at, ids in wanted:
        packed[at, : len(ids)] = ids
    return packed


def pack_pairs(some: Sequence[tuple[int, int]], num: int, padding: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs as two int32 [num] columns, filled up with padding."""
    first_N, second_N = np.full(num, padding[0], np.int32), np.full(num, padding[1], np.int32)
    for at, (first, second) in enumerate(some):
        first_N[at], second_N[at] = first, second
    return first_N, second_N


def pad_ids(next_ids: np.ndarray, num_tokens: int) -> np.ndarray:
    """int32 [num_tokens]: the ids, then zeros."""
    return np.pad(next_ids, (0, num_tokens - len(next_ids)))
