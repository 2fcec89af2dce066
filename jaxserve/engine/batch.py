"""Packing of plans into padded numpy arrays: pure functions, which fill the inputs of a call (step_inputs.py)."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxserve.engine.plan import Chunk, DecodeBatch, Fork
from jaxserve.engine.step_inputs import LAST_TOKEN, SampleInputs
from jaxserve.layers.adapter import NO_ADAPTER
from jaxserve.sampling.columns import NUM_COLUMNS
from jaxserve.sampling.penalties import num_words
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS

HostInputs = Any  # StepInputs of numpy arrays


def pack_decode(inputs: HostInputs, batch: DecodeBatch) -> None:
    """Fill in a decode batch: row b is the batch's row b, with its newest token."""
    n = len(batch)
    inputs.row_B[:n] = batch.row_B
    inputs.sampling_BS[:n] = batch.sampling_BS
    for page_table_BW, rows_BW in zip(inputs.page_tables_BW, batch.page_tables_BW, strict=True):
        page_table_BW[:n] = rows_BW
    if inputs.token_T is not None:
        inputs.token_T[:n] = LAST_TOKEN
        inputs.query_start_B1[:] = np.minimum(np.arange(len(inputs.row_B) + 1), n)
    if batch.adapter_slot_B is not None:
        inputs.adapter_slot_B[:n] = batch.adapter_slot_B
    if batch.stops_BX is not None:
        inputs.stops_BX[:n] = batch.stops_BX


def pack_chunks(inputs: HostInputs, chunks: Sequence[Chunk]) -> tuple[int, ...]:
    """Fill in prompt chunks: row b is chunk b. Return the line of each chunk's logits.

    The token sampled after a chunk that is not its prompt's last is not used, so its row is sampled without parameters.
    """
    end = 0
    for line, chunk in enumerate(chunks):
        start, end = end, end + len(chunk.token_ids)
        inputs.row_B[line], inputs.start_B[line] = chunk.row, chunk.start
        inputs.token_T[start:end] = chunk.token_ids
        inputs.query_start_B1[line + 1] = end
        _set_line(inputs, line, chunk)
    inputs.query_start_B1[len(chunks) + 1 :] = end
    return tuple(range(len(chunks)))


def pack_chunks_as_rows(inputs: HostInputs, chunks: Sequence[Chunk]) -> tuple[int, ...]:
    """Fill in prompt chunks with a row for each token; only that of a chunk's last token samples for its request.

    Return the line of each chunk's logits.
    """
    lines, end = [], 0
    for chunk in chunks:
        start, end = end, end + len(chunk.token_ids)
        inputs.token_T[start:end] = chunk.token_ids
        inputs.start_B[start:end] = np.arange(chunk.start, chunk.end)
        for page_table_BW, page_table_W in zip(inputs.page_tables_BW, chunk.page_tables_W, strict=True):
            page_table_BW[start:end] = page_table_W
        if chunk.adapter_slot != NO_ADAPTER:
            inputs.adapter_slot_B[start:end] = chunk.adapter_slot
        inputs.row_B[end - 1] = chunk.row
        _set_line(inputs, end - 1, chunk)
        lines.append(end - 1)
    inputs.query_start_B1[:] = np.minimum(np.arange(len(inputs.row_B) + 1), end)
    return tuple(lines)


def _set_line(inputs: HostInputs, line: int, chunk: Chunk) -> None:
    if chunk.is_last:
        inputs.sampling_BS[line] = chunk.sampling_S
    if chunk.adapter_slot != NO_ADAPTER:
        inputs.adapter_slot_B[line] = chunk.adapter_slot
    for page_table_BW, page_table_W in zip(inputs.page_tables_BW, chunk.page_tables_W, strict=True):
        page_table_BW[line] = page_table_W


def fork_inputs(forks: Iterable[tuple[int, int, Chunk | Fork]], num_rows: int, pad_row: int) -> SampleInputs:
    """Return the sampler's inputs for forks, each from the logits of its parent.

    forks   Triples (line, position, fork): the line of the logits and the position of the sampled token.
    """
    row_B, position_B = np.full(num_rows, pad_row, np.int32), np.zeros(num_rows, np.int32)
    sampling_BS = np.zeros((num_rows, NUM_COLUMNS), np.int32)
    for line, position, fork in forks:
        row_B[line], position_B[line], sampling_BS[line] = fork.row, position, fork.sampling_S
    arrays: Any = (row_B, position_B, sampling_BS)
    return SampleInputs(*arrays)


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


def pack_tuples(tuples: Sequence[tuple[int, ...]], num: int, padding: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return tuples as columns, int32 [num] each, filled up with `padding`."""
    columns = np.tile(np.array(padding, np.int32)[:, None], num)
    for index, values in enumerate(tuples):
        columns[:, index] = values
    return tuple(columns)


def scatter_targets(targets: Iterable[tuple[int, np.ndarray]], num_tokens: int) -> np.ndarray:
    """Return int32 [num_tokens] with the given (start, ids) pairs, filled up with zeros."""
    target_T = np.zeros(num_tokens, np.int32)
    for start, ids in targets:
        target_T[start : start + len(ids)] = ids
    return target_T
