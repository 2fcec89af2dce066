"""Inputs travel in one buffer: what the host fills in is what a program finds, and None takes no place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.engine.batch import pack_chunks, pack_decode
from jaxserve.engine.plan import Chunk, DecodeBatch
from jaxserve.engine.step_inputs import InputLayout, step_shapes
from jaxserve.sampling.columns import NUM_COLUMNS
from jaxserve.sampling.sampler import SampleMode

ROWS, WIDTH, PAD = 4, 3, 9


def layout(tokens):
    return InputLayout(step_shapes(ROWS, tokens, [WIDTH, 1]))  # pages of tokens; slots of states


def chunk(row, start, ids, *, is_last=True):
    tables = (np.full(WIDTH, row, np.int32), np.full(1, row + 1, np.int32))
    sampling_S = np.full(NUM_COLUMNS, row, np.int32)
    return Chunk(row, 0, row, start, np.array(ids), tables, sampling_S, SampleMode.GREEDY, is_last)


@pytest.mark.parametrize("tokens", [None, 16])
def test_a_program_finds_what_the_host_has_filled_in(tokens):
    buffer_X, inputs = layout(tokens).make_empty(PAD)
    for number, leaf in enumerate(jax.tree.leaves(inputs)):
        leaf[:] = np.arange(leaf.size).reshape(leaf.shape) + 100 * number
    found = jax.jit(layout(tokens).unpack)(jnp.asarray(buffer_X))
    assert jax.tree.structure(found) == jax.tree.structure(inputs)
    jax.tree.map(np.testing.assert_array_equal, found, inputs)


def test_inputs_that_are_none_take_no_place():
    assert layout(16).size - layout(None).size == 16 + ROWS + ROWS + 1
    assert layout(None).size == ROWS * (1 + WIDTH + 1 + NUM_COLUMNS)


def test_chunks_lie_one_behind_the_other():
    _, inputs = layout(16).make_empty(PAD)
    assert pack_chunks(inputs, [chunk(3, 0, [7, 8, 9]), chunk(1, 32, [5, 6], is_last=False)]) == (0, 1)
    assert inputs.token_T.tolist() == [7, 8, 9, 5, 6] + [0] * 11
    assert inputs.query_start_B1.tolist() == [0, 3, 5, 5, 5]
    assert (inputs.row_B.tolist(), inputs.start_B.tolist()) == ([3, 1, PAD, PAD], [0, 32, 0, 0])
    assert [table[1].tolist() for table in inputs.page_tables_BW] == [[1] * WIDTH, [2]]
    assert inputs.sampling_BS[:, 0].tolist() == [3, 0, 0, 0], "a prompt that goes on is sampled without parameters"


def test_decode_rows_are_named_and_nothing_else_of_them():
    _, inputs = layout(None).make_empty(PAD)
    table = np.ones((2, WIDTH), np.int32)
    sampling = np.ones((2, NUM_COLUMNS), np.int32)
    rows = np.array([2, 0], np.int32)
    pack_decode(inputs, DecodeBatch((5, 6), (0, 0), rows, (2, 0), (table, table[:, :1]), sampling, SampleMode.GREEDY))
    assert inputs.row_B.tolist() == [2, 0, PAD, PAD]
    assert (inputs.token_T, inputs.start_B, inputs.query_start_B1) == (None, None, None)
