"""Recurrences over the rows of a flat batch, chunk by chunk: each chunk is of one row and goes on from its state."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

CHUNK_SIZE = 64  # tokens that are computed together; a power of two


class RowChunks(NamedTuple):
    """The tokens of a flat batch in chunks of one row each, in the order of the tokens.

    token_XC      int32 [X, C], the tokens of each chunk
    is_real_XC    bool [X, C]: False behind the last token of a row, and in chunks of padding
    row_X         int32 [X], each chunk's row
    num_chunks    int32 scalar: chunks from this one on are padding
    chunk_T       int32 [T], each token's chunk
    offset_T      int32 [T], its place in that
    """

    token_XC: Array
    is_real_XC: Array
    row_X: Array
    num_chunks: Array
    chunk_T: Array
    offset_T: Array

    def cut(self, x_T: Array) -> Array:
        """Return the values of tokens [T, ...] chunk by chunk, [X, C, ...]; zeros where there is no token."""
        is_real_XC = self.is_real_XC.reshape(*self.is_real_XC.shape, *[1] * (x_T.ndim - 1))
        return jnp.where(is_real_XC, x_T[self.token_XC], 0)

    def join(self, x_XC: Array) -> Array:
        """Return the values [X, C, ...] of chunks token by token, [T, ...]."""
        return x_XC[self.chunk_T, self.offset_T]


def scan_chunks(
    step: Callable[[Array, Any], tuple[Array, Array]], state_BX: Array, chunks: RowChunks, values: Any, out_X: Array
) -> tuple[Array, Array]:
    """Run a step over the chunks one after the other, each with the state that its row has then.

    step      (state of a row, values of a chunk) → (new state, output of the chunk)
    values    A tree of arrays [X, ...].
    out_X     The outputs of chunks of padding; replaced for the others.

    Returns the outputs [X, ...] and the states of all rows behind their last chunks.
    """

    def run(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        out_X, state_BX = carry
        row = chunks.row_X[index]
        state, out = step(
            lax.dynamic_index_in_dim(state_BX, row, keepdims=False),
            jax.tree.map(lambda each: lax.dynamic_index_in_dim(each, index, keepdims=False), values),
        )
        return (
            lax.dynamic_update_index_in_dim(out_X, out, index, 0),
            lax.dynamic_update_index_in_dim(state_BX, state, row, 0),
        )

    return lax.fori_loop(0, chunks.num_chunks, run, (out_X, state_BX))
