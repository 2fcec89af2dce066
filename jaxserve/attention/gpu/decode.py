"""One query per row: the row's keys are cut into splits of fixed length, each computed alone, then combined.

A split is read for one key head and all query heads that share it, padded to the 16 rows that a tensor core wants.
What runs is a list of the splits that hold visible keys, made on the device, and a fixed number of programs that share
it: neither a wide table nor padding costs programs that end at once (65,536 of them in a layer at 256 rows of 131,072
tokens and 8 key heads, where 8,192 have work at 1,024 tokens a row). Buckets of table widths would be one program more
to compile for each width and row count.

A row has a limited number of splits, which bounds the partial sums: those of a row that would have more are longer. A
row of one split writes its answer at once. Partial sums are float32 and combined in the order of their positions, so a
row's result depends neither on its neighbours nor on the width of the table.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from jaxserve.attention.gpu.blocks import (
    RowKeys,
    SoftmaxState,
    Visible,
    add_block,
    ceil_div,
    finish_softmax,
    indices,
    init_softmax,
    load_masked,
    load_sinks,
    store_masked,
)
from jaxserve.attention.gpu.launch import Launch
from jaxserve.attention.gpu.pages import MIN_DOT, AttentionParams, GpuPages, KernelConfig, next_power_of_two
from jaxserve.attention.gpu.partials import PartialSums
from jaxserve.attention.inputs import AttentionInputs

COMBINE_LOADS = 8  # splits of a row whose sums are on their way together


class LiveSplits(NamedTuple):
    """The splits of all rows, row after row; a row that sees nothing has one, too, which writes zeros.

    row_I      int32 [I], the row of each split. There are first_B1[B] of them, and the rest holds anything.
    first_B1   int32 [B + 1]: row b has splits first[b] to first[b + 1] - 1 of the list.
    """

    row_I: Any
    first_B1: Any


def decode(
    query_BKGH: Array,
    pages: GpuPages,
    inputs: AttentionInputs,
    sinks_KG: Array | None,
    *,
    params: AttentionParams,
    config: KernelConfig,
) -> Array:
    """Compute attention of one query a row, [B, K, G, H] in the query's dtype."""
    rows, kv_heads, group, head_dim = query_BKGH.shape
    limits = _SplitLimits.choose(params, config, inputs.page_table_BW.shape[1] * params.page_size)
    splits = None if limits.max_splits == 1 else _list_live_splits(inputs, limits)
    num_programs = rows if splits is None else min(len(splits.row_I), -(-config.decode_programs // kv_heads))
    parts = None if splits is None else PartialSums.describe(rows, kv_heads, limits.max_splits, group, head_dim)
    launch = Launch("paged_decode", rows, parts, config.decode_warps, config.decode_stages, params.interpret)
    return launch.run(
        functools.partial(_decode_kernel, params=params, limits=limits, num_programs=num_programs),
        functools.partial(_combine_kernel, params=params),
        (kv_heads, num_programs),
        query_BKGH,
        (pages.flatten(), inputs.page_table_BW, inputs.length_B, inputs.position_T, splits, sinks_KG),
        () if splits is None else (splits.first_B1, sinks_KG),
    )


class _SplitLimits(NamedTuple):
    """Into how many splits a row is cut at most, and the least length of one; see `KernelConfig`."""

    max_splits: int
    split_tokens: int
    window: int | None

    @classmethod
    def choose(cls, params: AttentionParams, config: KernelConfig, max_tokens: int) -> "_SplitLimits":
        """Choose for rows of up to max_tokens tokens.

        The limit of programs decides the lengths of splits, and what is possible at all decides the size of arrays.
        """
        if params.window is not None:
            max_tokens = min(max_tokens, params.window + config.split_tokens - 1)
        possible = max(1, -(-max_tokens // config.split_tokens))
        return cls(min(possible, max(1, config.row_programs // params.kv_heads)), config.split_tokens, params.window)

    def cut(self, position: Array, length: Array) -> tuple[Array, Array, Array, Array]:
        """Return the first visible key of a query, the end of its keys, where its splits begin, and their length.

        Splits begin at a multiple of split_tokens, so that moving windows leave the blocks where they are.
        """
        low = jnp.zeros_like(position) if self.window is None else jnp.maximum(0, position - self.window + 1)
        limit = jnp.minimum(length, position + 1)
        begin = jax.lax.div(low, jnp.full_like(low, self.split_tokens)) * self.split_tokens
        longest = jnp.full_like(low, self.split_tokens * self.max_splits)
        times = jax.lax.div(jnp.maximum(limit - begin, 0) + longest - 1, longest)
        return low, limit, begin, self.split_tokens * jnp.maximum(1, times)


def _list_live_splits(inputs: AttentionInputs, limits: _SplitLimits) -> LiveSplits:
    """Return the splits with visible keys. All layers of a kind have the same, so XLA computes them once a step."""
    _, limit_B, begin_B, tokens_B = limits.cut(inputs.position_T, inputs.length_B)
    num_B = jnp.maximum(1, jax.lax.div(jnp.maximum(limit_B - begin_B, 0) + tokens_B - 1, tokens_B))
    end_B = jnp.cumsum(num_B, dtype=jnp.int32)
    item_I = jnp.arange(len(num_B) * limits.max_splits, dtype=jnp.int32)
    row_I = (item_I[:, None] >= end_B[:-1]).sum(1, dtype=jnp.int32)
    return LiveSplits(row_I, jnp.concatenate([jnp.zeros(1, jnp.int32), end_B]))


def _decode_kernel(
    query_ref: Any,
    rows: GpuPages,
    table_ref: Any,
    length_ref: Any,
    position_ref: Any,
    splits: LiveSplits | None,
    sinks_ref: Any,
    out_ref: Any,
    parts: PartialSums | None = None,
    *,
    params: AttentionParams,
    limits: _SplitLimits,
    num_programs: int,
) -> None:
    """Compute the splits of one key head that fall to this program: every num_programs-th one."""
    head, program = pl.program_id(0), pl.program_id(1)
    padded = max(MIN_DOT, next_power_of_two(params.group))
    member_G, lane_H = indices(padded), indices(params.lanes)
    mask_G = member_G < params.group
    mask_GH = mask_G[:, None] & (lane_H < params.head_dim)[None, :]

    def add_split(row: Array, split: Array) -> SoftmaxState:
        low, limit, begin, split_tokens = limits.cut(position_ref[row], length_ref[row])
        first = jnp.maximum(low, begin + split * split_tokens)
        last = jnp.minimum(limit, begin + (split + 1) * split_tokens)
        add = functools.partial(
            add_block,
            params=params,
            query_MH=load_masked(query_ref, (row, head, member_G[:, None], lane_H[None, :]), mask_GH),
            keys=RowKeys(rows, table_ref, row, head),
            visible=Visible(low, limit),
        )
        blocks = jax.lax.div(first, jnp.int32(params.block_tokens)), ceil_div(jnp.maximum(last, 0), params.block_tokens)
        return jax.lax.fori_loop(*blocks, add, init_softmax(padded, params.lanes))

    def answer(row: Array, state: SoftmaxState) -> None:
        out_GH = finish_softmax(state, load_sinks(sinks_ref, head, member_G, mask_G))
        store_masked(out_ref, (row, head, member_G[:, None], lane_H[None, :]), out_GH, mask_GH)

    if splits is None or parts is None:
        answer(program, add_split(program, jnp.int32(0)))
        return

    def run(turn: Array, _: None) -> None:
        item = turn * num_programs + program
        row = splits.row_I[item]
        first_item = splits.first_B1[row]
        is_whole = splits.first_B1[row + 1] - first_item == 1
        state = add_split(row, item - first_item)
        pl.when(is_whole)(lambda: answer(row, state))
        pl.when(~is_whole)(lambda: parts.store(row, head, item - first_item, state))

    num_items = splits.first_B1[length_ref.shape[0]]
    jax.lax.fori_loop(jnp.int32(0), ceil_div(num_items - program, num_programs), run, None)


def _combine_kernel(
    whole_ref: Any,
    parts: PartialSums,
    first_ref: Any,
    sinks_ref: Any,
    out_ref: Any,
    *,
    params: AttentionParams,
) -> None:
    """Answer for a row of several splits; the others are answered."""
    head, row = pl.program_id(0), pl.program_id(1)
    num_splits = first_ref[row + 1] - first_ref[row]
    size = next_power_of_two(params.group)
    member_G, lane_H = indices(size), indices(params.lanes)
    mask_G = member_G < params.group
    mask_GH = mask_G[:, None] & (lane_H < params.head_dim)[None, :]

    @pl.when(num_splits > 1)
    def _() -> None:
        state = parts.add_up(row, head, num_splits, rows=size, lanes=params.lanes, loads=COMBINE_LOADS)
        out_GH = finish_softmax(state, load_sinks(sinks_ref, head, member_G, mask_G))
        store_masked(out_ref, (row, head, member_G[:, None], lane_H[None, :]), out_GH, mask_GH)
