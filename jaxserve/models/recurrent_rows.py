"""Recurrent states of the rows of a step: read at its start, written at its end, and the rows' tokens in chunks.

A row whose first token has position 0 starts from zeros, so a slot need not be cleared. Rows of padding read zeros and
write to slot 0.
"""

import jax.numpy as jnp
from jax import Array, lax

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.causal_conv import causal_conv, causal_conv_step
from jaxserve.layers.row_chunks import CHUNK_SIZE, RowChunks


def read_states(state_SX: Array, inputs: AttentionInputs) -> Array:
    """Return the state of each row [B, ...], from the states of all slots; zeros for a row that starts."""
    slot_B, start_B1 = inputs.page_table_BW[:, 0], jnp.asarray(inputs.query_start_B1)
    has_past_B = inputs.length_B > start_B1[1:] - start_B1[:-1]
    state_BX = state_SX[slot_B]
    return jnp.where(has_past_B.reshape(-1, *[1] * (state_BX.ndim - 1)), state_BX, 0)


def write_states(state_SX: Array, state_BX: Array, inputs: AttentionInputs) -> Array:
    """Return the states of all slots with those of the rows in theirs. Donate state_SX."""
    slot_B, state_BX = jnp.asarray(inputs.page_table_BW[:, 0]), state_BX.astype(state_SX.dtype)
    return lax.platform_dependent(state_SX, state_BX, slot_B, cpu=_write_one_by_one, default=_scatter)


def _scatter(state_SX: Array, state_BX: Array, slot_B: Array) -> Array:
    return state_SX.at[slot_B].set(state_BX)


def _write_one_by_one(state_SX: Array, state_BX: Array, slot_B: Array) -> Array:
    """Write one row's state after the other: a CPU scatters number by number (see `copy_pages`)."""

    def write(row: Array, state_SX: Array) -> Array:
        state_X = lax.dynamic_index_in_dim(state_BX, row, keepdims=False)
        return lax.dynamic_update_index_in_dim(state_SX, state_X, slot_B[row], 0)

    return lax.fori_loop(0, len(slot_B), write, state_SX)


def convolve_rows(
    x_TD: Array, kernel_DL: Array, state_BSD: Array, inputs: AttentionInputs, bias_D: Array | None = None
) -> tuple[Array, Array]:
    """Return the causal convolution of the rows, and their new states; see `causal_conv`."""
    if inputs.max_queries_per_row == 1:
        return causal_conv_step(x_TD, kernel_DL, state_BSD, bias_D)
    return causal_conv(x_TD, kernel_DL, state_BSD, jnp.asarray(inputs.query_start_B1), inputs.row_T, bias_D)


def cut_rows(inputs: AttentionInputs, size: int = CHUNK_SIZE) -> RowChunks:
    """Cut the rows of a flat batch into chunks of at most `size` tokens, or of all tokens where they are fewer."""
    num_tokens, num_rows = len(inputs.position_T), len(inputs.length_B)
    size = min(size, 1 << (num_tokens - 1).bit_length())
    tiles = inputs.tile_queries(size)
    token_XC = tiles.start_X[:, None] + jnp.arange(size, dtype=jnp.int32)
    token_T = jnp.arange(num_tokens, dtype=jnp.int32)
    chunk_T = (token_T[:, None] >= tiles.start_X).sum(1, dtype=jnp.int32) - 1
    return RowChunks(
        token_XC=jnp.minimum(token_XC, num_tokens - 1),
        is_real_XC=(token_XC < tiles.end_X[:, None]) & (tiles.row_X < num_rows)[:, None],
        row_X=jnp.minimum(tiles.row_X, num_rows - 1),
        num_chunks=tiles.num_real_tiles,
        chunk_T=chunk_T,
        offset_T=token_T - tiles.start_X[chunk_T],
    )
