"""Packing of plans into padded numpy arrays: pure functions, the only place that knows the layout of a step's inputs.

The input of a call is one int32 matrix with a line for each row of the batch, so that a step needs one transfer:

    row | position | count | sampling columns | page table of each cache group | token ids (prompt chunks only)

`position` is that of the line's first query, `count` the number of its queries; a padding line has count 0. Under batch
invariance there is one shape for everything: a line has one token, which in decode is LAST_TOKEN, and a prompt chunk
has a line for each of its tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxserve.engine.plan import Chunk, DecodeBatch
from jaxserve.sampling.columns import NUM_COLUMNS, empty_row
from jaxserve.sampling.penalties import num_words
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

ROW, POSITION, COUNT, SAMPLING = 0, 1, 2, 3
NUM_SAMPLER_COLUMNS = SAMPLING + NUM_COLUMNS  # the first columns, which the sampler needs
LAST_TOKEN = -1  # in place of a token id: the row's newest token, which is on the device


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a packed matrix.

    max_pages_per_row   The width of a page table.
    num_tokens          The number of token ids in a line; 0 in decode, whose tokens are on the device.
    num_groups          The number of cache groups, each of which has a page table.
    """

    max_pages_per_row: int
    num_tokens: int = 0
    num_groups: int = 1

    @property
    def page_tables(self) -> tuple[slice, ...]:
        """The columns of each cache group's page table."""
        width = self.max_pages_per_row
        starts = range(NUM_SAMPLER_COLUMNS, NUM_SAMPLER_COLUMNS + width * self.num_groups, max(1, width))
        return tuple(slice(start, start + width) for start in starts)

    @property
    def tokens(self) -> slice:
        """The columns of the token ids."""
        return slice(self.num_columns - self.num_tokens, self.num_columns)

    @property
    def num_columns(self) -> int:
        """The number of columns."""
        return NUM_SAMPLER_COLUMNS + self.max_pages_per_row * self.num_groups + self.num_tokens


def empty(layout: Layout, num_rows: int, pad_row: int) -> np.ndarray:
    """Return num_rows padding lines, int32 [num_rows, X]: count 0, greedy sampling, pages and tokens 0, row pad_row."""
    packed = np.zeros((num_rows, layout.num_columns), np.int32)
    packed[:, ROW] = pad_row
    packed[:, SAMPLING:NUM_SAMPLER_COLUMNS] = empty_row()
    return packed


def pack_decode(batch: DecodeBatch, layout: Layout, num_rows: int, pad_row: int) -> np.ndarray:
    """Pack a decode batch into num_rows lines, int32 [num_rows, X]."""
    packed, n = empty(layout, num_rows, pad_row), len(batch)
    packed[:n, ROW] = batch.row_B
    packed[:n, POSITION] = batch.position_B
    packed[:n, COUNT] = 1
    packed[:n, SAMPLING:NUM_SAMPLER_COLUMNS] = batch.sampling_BS
    for columns, page_table_BW in zip(layout.page_tables, batch.page_tables_BW, strict=True):
        packed[:n, columns] = page_table_BW
    packed[:n, layout.tokens] = LAST_TOKEN
    return packed


def pack_chunk(chunk: Chunk, layout: Layout) -> np.ndarray:
    """Pack a prompt chunk into one line, int32 [1, X]."""
    packed = empty(layout, 1, chunk.row)
    packed[0, POSITION] = chunk.start
    packed[0, COUNT] = len(chunk.token_ids)
    packed[0, SAMPLING:NUM_SAMPLER_COLUMNS] = chunk.sampling_S
    for columns, page_table_W in zip(layout.page_tables, chunk.page_tables_W, strict=True):
        packed[0, columns] = page_table_W
    packed[0, layout.tokens.start : layout.tokens.start + len(chunk.token_ids)] = chunk.token_ids
    return packed


def pack_chunk_as_rows(chunk: Chunk, layout: Layout, num_rows: int, pad_row: int) -> np.ndarray:
    """Pack a prompt chunk into a line for each token, int32 [num_rows, X].

    Only the last token's line samples for the request's row.
    """
    packed, n = empty(layout, num_rows, pad_row), len(chunk.token_ids)
    packed[:n, POSITION] = np.arange(chunk.start, chunk.end)
    packed[:n, COUNT] = 1
    for columns, page_table_W in zip(layout.page_tables, chunk.page_tables_W, strict=True):
        packed[:n, columns] = page_table_W
    packed[:n, layout.tokens] = chunk.token_ids[:, None]
    packed[n - 1, ROW] = chunk.row
    packed[n - 1, SAMPLING:NUM_SAMPLER_COLUMNS] = chunk.sampling_S
    return packed


def sampler_columns(
    row: int, sampling_S: np.ndarray, position: int, line: int, num_rows: int, pad_row: int
) -> np.ndarray:
    """Return the sampler's columns alone, int32 [num_rows, NUM_SAMPLER_COLUMNS], with one line that is not padding.

    row          The row for which that line samples.
    sampling_S   Its sampling parameters.
    position     The position of the sampled token.
    line         The index of the line.
    num_rows     The number of lines.
    pad_row      The row of the other lines.
    """
    packed = empty(Layout(0, num_groups=0), num_rows, pad_row)
    packed[line, ROW], packed[line, POSITION] = row, position
    packed[line, SAMPLING:NUM_SAMPLER_COLUMNS] = sampling_S
    return packed


def allow_all(num_rows: int, vocab_size: int) -> np.ndarray:
    """Return masks that allow every token: uint32 [num_rows, ceil(V / 32)], one bit for each token id."""
    return np.full((num_rows, num_words(vocab_size)), 0xFFFFFFFF, np.uint32)


def scatter_masks(masks: Iterable[tuple[int, np.ndarray]], num_rows: int, vocab_size: int) -> np.ndarray:
    """Return masks with a line for each row, uint32 [num_rows, ceil(V / 32)].

    masks   Pairs (line, mask); the other lines allow all tokens.
    """
    packed = allow_all(num_rows, vocab_size)
    for line, mask_M in masks:
        packed[line, : len(mask_M)] = mask_M
    return packed


def scatter_logprob_token_ids(lines: Iterable[tuple[int, tuple[int, ...]]], num_rows: int) -> np.ndarray:
    """Return int32 [num_rows, MAX_LOGPROB_TOKEN_IDS] with the given (line, ids) pairs, filled up with zeros."""
    packed = np.zeros((num_rows, MAX_LOGPROB_TOKEN_IDS), np.int32)
    for line, ids in lines:
        packed[line, : len(ids)] = ids
    return packed


def pack_pairs(pairs: Sequence[tuple[int, int]], num: int, padding: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs as two columns, int32 [num] each, filled up with the pair `padding`."""
    first_N, second_N = np.full(num, padding[0], np.int32), np.full(num, padding[1], np.int32)
    for index, (first, second) in enumerate(pairs):
        first_N[index], second_N[index] = first, second
    return first_N, second_N


def pad_ids(ids: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return the ids, int32 [num_tokens], filled up with zeros."""
    return np.pad(ids, (0, num_tokens - len(ids)))
