"""One query per row: the row's keys are cut into splits of fixed length, one program each, then combined.

A program reads one split for one key head and all query heads that share it, padded to the 16 rows that a
tensor core wants. A row has a limited number of splits, so that a table for long rows costs short ones little: the
splits of a row that would have more are longer. Splits that a row does not have end at once. Partial sums are float32
and combined in the order of their positions, so a row's result depends neither on its neighbours nor on the width of
the table.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from jaxserve.attention.gpu.blocks import add_block, finish_softmax, indices, init_softmax, load_masked, store_masked
from jaxserve.attention.gpu.pages import MIN_DOT, AttentionParams, GpuPages, KernelConfig, next_power_of_two
from jaxserve.attention.inputs import AttentionInputs


def decode(
    query_BKGH: Array,
    pages: GpuPages,
    inputs: AttentionInputs,
    sinks_KG: Array | None,
    *,
    params: AttentionParams,
    config: KernelConfig,
    interpret: bool,
) -> Array:
    """Compute attention of one query a row, [B, K, G, H] in the query's dtype."""
    if params.window is not None:
        # Fewer splits; whole ones are left out, so that the sums of those that stay are the same.
        inputs = inputs.crop_to_window(params.window, params.page_size, -(-config.split_tokens // params.page_size))
    rows, width = inputs.page_table_BW.shape
    kv_heads, group, head_dim = query_BKGH.shape[1:]
    max_splits = max(1, config.row_programs // kv_heads)
    splits = min(max_splits, max(1, -(-width * params.page_size // config.split_tokens)))
    choose_split = functools.partial(_choose_split_tokens, split_tokens=config.split_tokens, max_splits=max_splits)
    out = jax.ShapeDtypeStruct(query_BKGH.shape, query_BKGH.dtype)
    part = jax.ShapeDtypeStruct((rows, kv_heads, splits, group), jnp.float32)
    parts = (part, part, jax.ShapeDtypeStruct((*part.shape, head_dim), jnp.float32))
    compiler_params = plt.CompilerParams(num_warps=config.decode_warps, num_stages=config.decode_stages)
    is_single = splits == 1
    partial_sums = pl.pallas_call(
        functools.partial(_decode_split_kernel, params=params, choose_split=choose_split, is_single=is_single),
        grid=(kv_heads, rows, splits),
        out_shape=out if is_single else parts,
        compiler_params=compiler_params,
        interpret=interpret,
        name="paged_decode",
    )(query_BKGH, pages, inputs.page_table_BW, inputs.length_B, inputs.position_T, sinks_KG)
    if is_single:
        return partial_sums
    return pl.pallas_call(
        functools.partial(_combine_kernel, params=params, choose_split=choose_split),
        grid=(kv_heads, rows),
        out_shape=out,
        compiler_params=compiler_params,
        interpret=interpret,
        name="paged_decode_combine",
    )(partial_sums, inputs.length_B, inputs.position_T, sinks_KG)


def _visible_range(length_ref: Any, position_ref: Any, row: Array, window: int | None) -> tuple[Array, Array, Array]:
    """What the row's query sees: its position, the first key, and the end of the keys."""
    position = position_ref[row]
    low = jnp.int32(0) if window is None else jnp.maximum(0, position - window + 1)
    return position, low, jnp.minimum(length_ref[row], position + 1)


def _choose_split_tokens(limit: Array, *, split_tokens: int, max_splits: int) -> Array:
    """Return the length of the splits of a row of `limit` keys: the least multiple that makes few enough."""
    longest = split_tokens * max_splits
    return split_tokens * jnp.maximum(1, jax.lax.div(limit + longest - 1, jnp.int32(longest)))


def _decode_split_kernel(
    query_ref: Any,
    pages: GpuPages,
    table_ref: Any,
    length_ref: Any,
    position_ref: Any,
    sinks_ref: Any,
    *out_refs: Any,
    params: AttentionParams,
    choose_split: Callable[[Array], Array],
    is_single: bool,
) -> None:
    """One split. With one split in all (`whole`) this is the answer, else a partial sum; empty splits write nothing."""
    head, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    position, low, limit = _visible_range(length_ref, position_ref, row, params.window)
    split_tokens = choose_split(limit)
    first = jnp.maximum(low, split * split_tokens)
    last = jnp.minimum(limit, (split + 1) * split_tokens)
    padded = max(MIN_DOT, next_power_of_two(params.group))
    member_G, lane_H = indices(padded), indices(params.lanes)
    mask_G = member_G < params.group
    mask_GH = mask_G[:, None] & (lane_H < params.head_dim)[None, :]

    def run() -> None:
        query_GH = load_masked(query_ref, (row, head, member_G[:, None], lane_H[None, :]), mask_GH)
        add = functools.partial(
            add_block,
            params=params,
            query_MH=query_GH,
            position_M=jnp.full((padded,), position, jnp.int32),
            low=low,
            limit=limit,
            pages=pages,
            table_ref=table_ref,
            row=row,
            head=head,
        )
        begin = jax.lax.div(first, params.block_tokens)
        end = jax.lax.div(jnp.maximum(last, 0) + params.block_tokens - 1, params.block_tokens)
        carry = jax.lax.fori_loop(begin, end, add, init_softmax(padded, params.lanes))
        if is_single:
            sink_G = None if sinks_ref is None else load_masked(sinks_ref, (head, member_G), mask_G).astype(jnp.float32)
            store_masked(
                out_refs[0], (row, head, member_G[:, None], lane_H[None, :]), finish_softmax(carry, sink_G), mask_GH
            )
            return
        running_max_G, running_sum_G, acc_GH = carry
        store_masked(out_refs[0], (row, head, split, member_G), running_max_G, mask_G)
        store_masked(out_refs[1], (row, head, split, member_G), running_sum_G, mask_G)
        store_masked(out_refs[2], (row, head, split, member_G[:, None], lane_H[None, :]), acc_GH, mask_GH)

    if is_single:
        run()
    else:
        pl.when(first < last)(run)


def _combine_kernel(
    parts: tuple[Any, Any, Any],
    length_ref: Any,
    position_ref: Any,
    sinks_ref: Any,
    out_ref: Any,
    *,
    params: AttentionParams,
    choose_split: Callable[[Array], Array],
) -> None:
    """Adds a row's partial sums in order. Reads only the splits that were written: the others hold anything."""
    head, row = pl.program_id(0), pl.program_id(1)
    max_ref, sum_ref, acc_ref = parts
    _, low, limit = _visible_range(length_ref, position_ref, row, params.window)
    padded = next_power_of_two(params.group)
    member_G, lane_H = indices(padded), indices(params.lanes)
    mask_G = member_G < params.group
    mask_GH = mask_G[:, None] & (lane_H < params.head_dim)[None, :]

    def add(split: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        running_max_G, running_sum_G, acc_GH = carry
        part_max_G = load_masked(max_ref, (row, head, split, member_G), mask_G)
        new_max_G = jnp.maximum(running_max_G, part_max_G)
        rescale_G, part_rescale_G = jnp.exp2(running_max_G - new_max_G), jnp.exp2(part_max_G - new_max_G)
        part_sum_G = load_masked(sum_ref, (row, head, split, member_G), mask_G)
        part_acc_GH = load_masked(acc_ref, (row, head, split, member_G[:, None], lane_H[None, :]), mask_GH)
        return (
            new_max_G,
            running_sum_G * rescale_G + part_sum_G * part_rescale_G,
            acc_GH * rescale_G[:, None] + part_acc_GH * part_rescale_G[:, None],
        )

    split_tokens = choose_split(limit)
    begin = jax.lax.div(low, split_tokens)
    end = jax.lax.div(jnp.maximum(limit, 0) + split_tokens - 1, split_tokens)
    carry = jax.lax.fori_loop(begin, end, add, init_softmax(padded, params.lanes))
    sink_G = None if sinks_ref is None else load_masked(sinks_ref, (head, member_G), mask_G).astype(jnp.float32)
    store_masked(out_ref, (row, head, member_G[:, None], lane_H[None, :]), finish_softmax(carry, sink_G), mask_GH)
