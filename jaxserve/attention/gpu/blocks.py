"""The turn of the loop that both kernels share: a block of keys and values through the page table, softmax kept.

Scores are kept in units of log 2, because the hardware knows exp2. Masked slots are never fetched: their keys
and values are zero and their weights exact zeros, whatever the pages hold there.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import triton as plt

from jaxserve.attention.gpu.pages import AttentionParams, GpuPages

LOG2E = math.log2(math.e)
MASKED_SCORE = -1e30  # finite, so that a row that sees nothing gives zeros instead of NaN

SoftmaxState = tuple[
    Array, Array, Array
]  # running_max_M, running_sum_M, acc_MH: running maximum, sum of weights, weighted values


def load_masked(ref: Any, index: tuple[Any, ...], mask: Array) -> Array:
    """Load ref[index], zero where the mask is off; what is masked is not read."""
    return plt.load(ref.at[index], mask=mask, other=0.0 if jnp.issubdtype(ref.dtype, jnp.floating) else 0)


def store_masked(ref: Any, index: tuple[Any, ...], value: Array, mask: Array) -> None:
    """Store value to ref[index] where the mask is on."""
    plt.store(ref.at[index], value.astype(ref.dtype), mask=mask)


def indices(size: int) -> Array:
    """Return int32 0 to size - 1."""
    return jax.lax.iota(jnp.int32, size)


def init_softmax(rows: int, lanes: int) -> SoftmaxState:
    """Return the state before the first block."""
    return (
        jnp.full((rows,), MASKED_SCORE, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
        jnp.zeros((rows, lanes), jnp.float32),
    )


def add_block(
    block: Array,
    carry: SoftmaxState,
    *,
    params: AttentionParams,
    query_MH: Array,
    position_M: Array,
    low: Array,
    limit: Array,
    pages: GpuPages,
    table_ref: Any,
    row: Array,
    head: Array,
) -> SoftmaxState:
    """Add the keys at block * X to block * X + X - 1 of one row and key head, seen by M queries.

    position_M  int32, where each query stands; it sees keys up to there, and `window` of them
    low         int32 scalar, positions before it are behind the window of every query and not fetched
    limit       int32 scalar, positions from here on are dead and not fetched
    pages       refs, and table_ref [B, W]
    """
    running_max_M, running_sum_M, acc_MH = carry
    key_position_X = block * params.block_tokens + indices(params.block_tokens)
    live_X = key_position_X < limit
    if params.window is not None:
        live_X &= key_position_X >= low
    page_X = load_masked(table_ref, (row, jax.lax.div(key_position_X, params.page_size)), live_X)
    offset_X = jax.lax.rem(key_position_X, params.page_size)
    lane_H = indices(params.lanes)
    at = (page_X[:, None], offset_X[:, None], head, lane_H[None, :])
    mask_XH = live_X[:, None] & (lane_H < params.head_dim)[None, :]

    key_XH = load_masked(pages.key_PZKH, at, mask_XH).astype(query_MH.dtype)
    score_MX = dot(query_MH, key_XH, transposed=True)
    if pages.key_scale_PZK is not None:
        score_MX *= load_masked(pages.key_scale_PZK, (page_X, offset_X, head), live_X)[None, :]
    if params.softcap is None:
        score_MX *= params.scale * LOG2E
    else:
        score_MX = params.softcap * LOG2E * jnp.tanh(score_MX * (params.scale / params.softcap))

    seen_MX = live_X[None, :] & (key_position_X[None, :] <= position_M[:, None])
    if params.window is not None:
        seen_MX &= key_position_X[None, :] > position_M[:, None] - params.window
    score_MX = jnp.where(seen_MX, score_MX, MASKED_SCORE)
    new_max_M = jnp.maximum(running_max_M, jnp.max(score_MX, axis=1))
    weight_MX = jnp.where(seen_MX, jnp.exp2(score_MX - new_max_M[:, None]), 0.0)
    rescale_M = jnp.exp2(running_max_M - new_max_M)
    running_sum_M = running_sum_M * rescale_M + jnp.sum(weight_MX, axis=1)

    value_XH = load_masked(pages.value_PZKH, at, mask_XH).astype(query_MH.dtype)
    if pages.value_scale_PZK is not None:
        weight_MX *= load_masked(pages.value_scale_PZK, (page_X, offset_X, head), live_X)[None, :]
    acc_MH = acc_MH * rescale_M[:, None] + dot(weight_MX.astype(query_MH.dtype), value_XH)
    return new_max_M, running_sum_M, acc_MH


def finish_softmax(carry: SoftmaxState, sink_M: Array | None) -> Array:
    """Return the weighted mean, float32 [M, H]. A sink is one more score that takes weight and brings no value."""
    running_max_M, running_sum_M, acc_MH = carry
    if sink_M is not None:
        new_max_M = jnp.maximum(running_max_M, sink_M * LOG2E)
        rescale_M = jnp.exp2(running_max_M - new_max_M)
        running_sum_M = running_sum_M * rescale_M + jnp.exp2(sink_M * LOG2E - new_max_M)
        acc_MH *= rescale_M[:, None]
    return acc_MH / jnp.where(running_sum_M == 0, 1.0, running_sum_M)[:, None]


def dot(left: Array, right: Array, *, transposed: bool = False) -> Array:
    """Multiply left @ right (or right.T), summed in float32; float32 operands are not rounded to TF32."""
    return jax.lax.dot_general(
        left,
        right,
        (((1,), (1 if transposed else 0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
