"""The turn of the loop that both kernels share: a block of keys and values through the page table, softmax kept.

Scores are kept in units of log 2, because the hardware knows exp2. Masked slots are never fetched: their keys
and values are zero and their weights exact zeros, whatever the pages hold there.
"""

import math
import struct
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import triton as plt

from jaxserve.attention.gpu.pages import AttentionParams, GpuPages

LOG2E = math.log2(math.e)
MASKED_SCORE = -1e30  # finite, so that a row that sees nothing gives zeros instead of NaN


class SoftmaxState(NamedTuple):
    """The softmax of M queries between blocks, all float32."""

    running_max_M: Array
    running_sum_M: Array
    acc_MH: Array  # the sum of weighted values


class RowKeys(NamedTuple):
    """The place of the keys and values of one row and key head: refs, and the numbers of both.

    rows        the pages as `GpuPages.flatten` returns them
    table_ref   [B, W]
    """

    rows: GpuPages
    table_ref: Any
    row: Array
    head: Array


class Visible(NamedTuple):
    """The keys that M queries see: from `low` on, before `limit`, up to `position_M` and `window` of them.

    low, limit   int32 scalars: keys outside are dead, or behind the window of every query, and are not fetched.
    position_M   None: every query sees all keys from low to limit.
    """

    low: Array
    limit: Array
    position_M: Array | None = None


def load_masked(ref: Any, index: tuple[Any, ...], mask: Array | None) -> Array:
    """Load ref[index], zero where the mask is off; what is masked is not read. None: everything is read."""
    if mask is None:
        return plt.load(ref.at[index])
    return plt.load(ref.at[index], mask=mask, other=0.0 if jnp.issubdtype(ref.dtype, jnp.floating) else 0)


def store_masked(ref: Any, index: tuple[Any, ...], value: Array, mask: Array) -> None:
    """Store value to ref[index] where the mask is on."""
    plt.store(ref.at[index], value.astype(ref.dtype), mask=mask)


def indices(size: int) -> Array:
    """Return int32 0 to size - 1."""
    return jax.lax.iota(jnp.int32, size)


def ceil_div(number: Array, divisor: int | Array) -> Array:
    """Return number / divisor rounded up, for numbers from 0 on."""
    divisor = jnp.int32(divisor) if isinstance(divisor, int) else divisor
    return jax.lax.div(number + divisor - 1, divisor)


def init_softmax(rows: int, lanes: int) -> SoftmaxState:
    """Return the state before the first block."""
    return SoftmaxState(
        jnp.full((rows,), MASKED_SCORE, jnp.float32),
        jnp.zeros((rows,), jnp.float32),
        jnp.zeros((rows, lanes), jnp.float32),
    )


def add_block(
    block: Array,
    state: SoftmaxState,
    *,
    params: AttentionParams,
    query_MH: Array,
    keys: RowKeys,
    visible: Visible | None,
) -> SoftmaxState:
    """Add the keys at block * X to block * X + X - 1, seen by M queries.

    visible   None: every query sees all keys of the block. Then nothing is compared or selected, which is a third of
              the instructions of a prefill block.
    """
    key_position_X = block * params.block_tokens + indices(params.block_tokens)
    live_X = None if visible is None else _is_live(key_position_X, visible, params)
    row_X = _key_rows(key_position_X, keys, params, live_X)
    lane_H = indices(params.lanes)
    index = (row_X[:, None], lane_H[None, :])
    mask_XH = None if live_X is None else jnp.broadcast_to(live_X[:, None], (params.block_tokens, params.lanes))
    if params.lanes != params.head_dim:
        is_lane_XH = jnp.broadcast_to((lane_H < params.head_dim)[None, :], (params.block_tokens, params.lanes))
        mask_XH = is_lane_XH if mask_XH is None else mask_XH & is_lane_XH

    key_XH = load_masked(keys.rows.key_PZKH, index, mask_XH).astype(query_MH.dtype)
    score_MX = dot(query_MH, key_XH, transposed=True)
    if keys.rows.key_scale_PZK is not None:
        score_MX *= load_masked(keys.rows.key_scale_PZK, (row_X,), live_X)[None, :]
    factor = params.scale * LOG2E  # multiplied where the maximum is subtracted: one instruction, not two
    if params.softcap is not None:
        score_MX = _tanh(score_MX * (params.scale / params.softcap), params.interpret)
        factor = params.softcap * LOG2E

    seen_MX = None if visible is None or live_X is None else _is_seen(key_position_X, live_X, visible, params)
    if seen_MX is not None:
        score_MX = jnp.where(seen_MX, score_MX, MASKED_SCORE)
    new_max_M = jnp.maximum(state.running_max_M, jnp.max(score_MX, axis=1) * factor)
    weight_MX = _exp2_of_difference(score_MX, factor, new_max_M, params.interpret)
    if seen_MX is not None:
        weight_MX = jnp.where(seen_MX, weight_MX, 0.0)
    rescale_M = jnp.exp2(state.running_max_M - new_max_M)
    running_sum_M = state.running_sum_M * rescale_M + jnp.sum(weight_MX, axis=1)

    value_XH = load_masked(keys.rows.value_PZKH, index, mask_XH).astype(query_MH.dtype)
    if keys.rows.value_scale_PZK is not None:
        weight_MX *= load_masked(keys.rows.value_scale_PZK, (row_X,), live_X)[None, :]
    acc_MH = state.acc_MH * rescale_M[:, None] + dot(weight_MX.astype(query_MH.dtype), value_XH)
    return SoftmaxState(new_max_M, running_sum_M, acc_MH)


def _exp2_of_difference(score_MX: Array, factor: float, max_M: Array, interpret: bool) -> Array:
    """Return 2 ** (score * factor - max), results below 2 ** -126 as zero.

    Two instructions an element. Left to the compilers it is six: they do not contract the product and the difference,
    and scale what is exponentiated twice to keep results that small (sm_90, jax 0.10.2).
    """
    max_MX = jnp.broadcast_to(max_M[:, None], score_MX.shape)
    if interpret:
        return jnp.exp2(score_MX * factor - max_MX)
    asm = f"{{ .reg .f32 t; fma.rn.f32 t, $1, {_literal(factor)}, $2; ex2.approx.ftz.f32 $0, t; }}"
    return _run_ptx(asm, score_MX, -max_MX)


def _tanh(value_MX: Array, interpret: bool) -> Array:
    """Return tanh as 1 - 2 / (1 + 2 ** (2 log2(e) x)), right to 3e-7: five instructions where CUDA's has twenty."""
    if interpret:
        return jnp.tanh(value_MX)
    asm = (
        f"{{ .reg .f32 t; mul.rn.f32 t, $1, {_literal(2 * LOG2E)}; ex2.approx.ftz.f32 t, t;"
        f" add.rn.f32 t, t, {_literal(1.0)}; rcp.approx.ftz.f32 t, t;"
        f" fma.rn.f32 $0, t, {_literal(-2.0)}, {_literal(1.0)}; }}"
    )
    return _run_ptx(asm, value_MX)


def _literal(number: float) -> str:
    """Return a float32 as PTX writes it."""
    return "0f" + struct.pack(">f", number).hex()


def _run_ptx(asm: str, *args: Array) -> Array:
    """Run instructions of float32 numbers for each element."""
    out = jax.ShapeDtypeStruct(args[0].shape, jnp.float32)
    constraints = ",".join(["=f", *"f" * len(args)])
    return plt.elementwise_inline_asm(asm, args=args, constraints=constraints, pack=1, result_shape_dtypes=[out])[0]


def _is_live(key_position_X: Array, visible: Visible, params: AttentionParams) -> Array:
    live_X = key_position_X < visible.limit
    return live_X if params.window is None else live_X & (key_position_X >= visible.low)


def _is_seen(key_position_X: Array, live_X: Array, visible: Visible, params: AttentionParams) -> Array:
    if visible.position_M is None:
        return live_X[None, :]
    seen_MX = live_X[None, :] & (key_position_X[None, :] <= visible.position_M[:, None])
    if params.window is not None:
        seen_MX &= key_position_X[None, :] > visible.position_M[:, None] - params.window
    return seen_MX


def _key_rows(key_position_X: Array, keys: RowKeys, params: AttentionParams, live_X: Array | None) -> Array:
    """Return the places of the keys in `GpuPages.flatten`."""
    page_X = load_masked(keys.table_ref, (keys.row, jax.lax.div(key_position_X, params.page_size)), live_X)
    slot_X = page_X * params.page_size + jax.lax.rem(key_position_X, params.page_size)
    return slot_X * params.kv_heads + keys.head


def finish_softmax(state: SoftmaxState, sink_M: Array | None) -> Array:
    """Return the weighted mean, float32 [M, H]. A sink is one more score that takes weight and brings no value."""
    running_max_M, running_sum_M, acc_MH = state
    if sink_M is not None:
        new_max_M = jnp.maximum(running_max_M, sink_M * LOG2E)
        rescale_M = jnp.exp2(running_max_M - new_max_M)
        running_sum_M = running_sum_M * rescale_M + jnp.exp2(sink_M * LOG2E - new_max_M)
        acc_MH *= rescale_M[:, None]
    return acc_MH / jnp.where(running_sum_M == 0, 1.0, running_sum_M)[:, None]


def load_sinks(sinks_ref: Any, head: Array, member_M: Array, mask_M: Array) -> Array | None:
    """Return the sinks of the query heads `member_M` that share a key head, float32 [M]; None if there are none."""
    return None if sinks_ref is None else load_masked(sinks_ref, (head, member_M), mask_M).astype(jnp.float32)


def dot(left: Array, right: Array, *, transposed: bool = False) -> Array:
    """Multiply left @ right (or right.T), summed in float32; float32 operands are not rounded to TF32."""
    return jax.lax.dot_general(
        left,
        right,
        (((1,), (1 if transposed else 0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if left.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
