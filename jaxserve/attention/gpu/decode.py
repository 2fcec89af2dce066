"""One query per row: the row's keys are cut into splits of fixed length, one program each, then combined.

A program reads one split for one key head and all query heads that share it, padded to the 16 rows that a
tensor core wants. Splits that a row does not have end at once. Partial sums are float32 and combined in the
order of their positions, so a row's result depends neither on its neighbours nor on the width of the table.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from jaxserve.attention.gpu.blocks import add_block, fetch, finish, indices, keep, nothing_yet
from jaxserve.attention.gpu.pages import MIN_DOT, GpuPages, Look, Tuning, power_of_two
from jaxserve.attention.inputs import AttentionInputs


def decode(
    query_BKGH: Array,
    pages: GpuPages,
    inputs: AttentionInputs,
    sinks_KG: Array | None,
    *,
    look: Look,
    tuning: Tuning,
    interpret: bool,
) -> Array:
    """[B, K, G, H] in the query's dtype."""
    rows, width = inputs.page_table_BW.shape
    kv_heads, group, head_dim = query_BKGH.shape[1:]
    splits = max(1, -(-width * look.page_size // tuning.split_tokens))
    out = jax.ShapeDtypeStruct(query_BKGH.shape, query_BKGH.dtype)
    part = jax.ShapeDtypeStruct((rows, kv_heads, splits, group), jnp.float32)
    parts = (part, part, jax.ShapeDtypeStruct((*part.shape, head_dim), jnp.float32))
    params = plt.CompilerParams(num_warps=tuning.decode_warps, num_stages=tuning.decode_stages)
    whole = splits == 1
    taken = pl.pallas_call(
        functools.partial(_take_split, look=look, split_tokens=tuning.split_tokens, whole=whole),
        grid=(kv_heads, rows, splits),
        out_shape=out if whole else parts,
        compiler_params=params,
        interpret=interpret,
        name="paged_decode",
    )(query_BKGH, pages, inputs.page_table_BW, inputs.length_B, inputs.position_T, sinks_KG)
    if whole:
        return taken
    return pl.pallas_call(
        functools.partial(_combine, look=look, split_tokens=tuning.split_tokens),
        grid=(kv_heads, rows),
        out_shape=out,
        compiler_params=params,
        interpret=interpret,
        name="paged_decode_combine",
    )(taken, inputs.length_B, inputs.position_T, sinks_KG)


def _sight(length_ref: Any, position_ref: Any, row: Array, window: int | None) -> tuple[Array, Array, Array]:
    """What the row's query sees: its position, the first key, and the end of the keys."""
    position = position_ref[row]
    low = jnp.int32(0) if window is None else jnp.maximum(0, position - window + 1)
    return position, low, jnp.minimum(length_ref[row], position + 1)


def _take_split(
    query_ref: Any,
    pages: GpuPages,
    table_ref: Any,
    length_ref: Any,
    position_ref: Any,
    sinks_ref: Any,
    *out_refs: Any,
    look: Look,
    split_tokens: int,
    whole: bool,
) -> None:
    """One split. With one split in all (`whole`) this is the answer, else a partial sum; empty splits write nothing."""
    head, row, split = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    position, low, limit = _sight(length_ref, position_ref, row, look.window)
    first = jnp.maximum(low, split * split_tokens)
    last = jnp.minimum(limit, (split + 1) * split_tokens)
    padded = max(MIN_DOT, power_of_two(look.group))
    member_G, lane_H = indices(padded), indices(look.lanes)
    mask_G = member_G < look.group
    mask_GH = mask_G[:, None] & (lane_H < look.head_dim)[None, :]

    def take() -> None:
        query_GH = fetch(query_ref, (row, head, member_G[:, None], lane_H[None, :]), mask_GH)
        add = functools.partial(
            add_block,
            look=look,
            query_MH=query_GH,
            position_M=jnp.full((padded,), position, jnp.int32),
            limit=limit,
            pages=pages,
            table_ref=table_ref,
            row=row,
            head=head,
        )
        begin = jax.lax.div(first, look.block_tokens)
        end = jax.lax.div(jnp.maximum(last, 0) + look.block_tokens - 1, look.block_tokens)
        carry = jax.lax.fori_loop(begin, end, add, nothing_yet(padded, look.lanes))
        if whole:
            sink_G = None if sinks_ref is None else fetch(sinks_ref, (head, member_G), mask_G).astype(jnp.float32)
            keep(out_refs[0], (row, head, member_G[:, None], lane_H[None, :]), finish(carry, sink_G), mask_GH)
            return
        top_G, total_G, sum_GH = carry
        keep(out_refs[0], (row, head, split, member_G), top_G, mask_G)
        keep(out_refs[1], (row, head, split, member_G), total_G, mask_G)
        keep(out_refs[2], (row, head, split, member_G[:, None], lane_H[None, :]), sum_GH, mask_GH)

    if whole:
        take()
    else:
        pl.when(first < last)(take)


def _combine(
    parts: tuple[Any, Any, Any],
    length_ref: Any,
    position_ref: Any,
    sinks_ref: Any,
    out_ref: Any,
    *,
    look: Look,
    split_tokens: int,
) -> None:
    """Adds a row's partial sums in order. Reads only the splits that were written: the others hold anything."""
    head, row = pl.program_id(0), pl.program_id(1)
    top_ref, total_ref, sum_ref = parts
    _, low, limit = _sight(length_ref, position_ref, row, look.window)
    padded = power_of_two(look.group)
    member_G, lane_H = indices(padded), indices(look.lanes)
    mask_G = member_G < look.group
    mask_GH = mask_G[:, None] & (lane_H < look.head_dim)[None, :]

    def add(split: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top_G, total_G, sum_GH = carry
        part_top_G = fetch(top_ref, (row, head, split, member_G), mask_G)
        new_top_G = jnp.maximum(top_G, part_top_G)
        fade_G, part_fade_G = jnp.exp2(top_G - new_top_G), jnp.exp2(part_top_G - new_top_G)
        part_total_G = fetch(total_ref, (row, head, split, member_G), mask_G)
        part_sum_GH = fetch(sum_ref, (row, head, split, member_G[:, None], lane_H[None, :]), mask_GH)
        return (
            new_top_G,
            total_G * fade_G + part_total_G * part_fade_G,
            sum_GH * fade_G[:, None] + part_sum_GH * part_fade_G[:, None],
        )

    begin = jax.lax.div(low, split_tokens)
    end = jax.lax.div(jnp.maximum(limit, 0) + split_tokens - 1, split_tokens)
    carry = jax.lax.fori_loop(begin, end, add, nothing_yet(padded, look.lanes))
    sink_G = None if sinks_ref is None else fetch(sinks_ref, (head, member_G), mask_G).astype(jnp.float32)
    keep(out_ref, (row, head, member_G[:, None], lane_H[None, :]), finish(carry, sink_G), mask_GH)
