"""Many queries per row: tiles of queries walk the row's pages from their window's start to their causal limit.

A tile has queries of one row only. Its lines are pairs of a query and one of the heads that share a key head, so that
every block of keys serves them all. The grid has a program for each tile that the rows could need at most; surplus
ones, whose tile is empty, end at once.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from jaxserve.attention.gpu.blocks import add_block, finish_softmax, indices, init_softmax, load_masked, store_masked
from jaxserve.attention.gpu.pages import MIN_DOT, AttentionParams, GpuPages, KernelConfig, next_power_of_two
from jaxserve.attention.inputs import AttentionInputs

WIDE = 128  # beyond this head dimension a tile has half the rows: 128 rows of 256 sums spill from the registers


def prefill(
    query_TKGH: Array,
    pages: GpuPages,
    inputs: AttentionInputs,
    sinks_KG: Array | None,
    *,
    params: AttentionParams,
    config: KernelConfig,
    interpret: bool,
) -> Array:
    """Compute attention of all tokens, [T, K, G, H] in the query's dtype; padding gets zeros."""
    kv_heads, group = query_TKGH.shape[1:3]
    wanted = config.tile_rows if params.lanes <= WIDE else config.tile_rows // 2
    most = next_power_of_two(inputs.max_queries_per_row * group)
    tile_rows = max(MIN_DOT, next_power_of_two(group), min(wanted, most))
    tiles = inputs.tile_queries(tile_rows // group)
    num_tiles = tiles.row_X.shape[0]
    return pl.pallas_call(
        functools.partial(_prefill_tile_kernel, params=params, tile_rows=tile_rows, num_tiles=num_tiles),
        grid=(kv_heads, num_tiles),
        out_shape=jax.ShapeDtypeStruct(query_TKGH.shape, query_TKGH.dtype),
        compiler_params=plt.CompilerParams(num_warps=config.prefill_warps, num_stages=config.prefill_stages),
        interpret=interpret,
        name="paged_prefill",
    )(
        query_TKGH,
        pages,
        inputs.page_table_BW,
        inputs.length_B,
        inputs.position_T,
        (tiles.row_X, tiles.start_X, tiles.end_X),
        sinks_KG,
    )


def _prefill_tile_kernel(
    query_ref: Any,
    pages: GpuPages,
    table_ref: Any,
    length_ref: Any,
    position_ref: Any,
    tile_refs: tuple[Any, Any, Any],
    sinks_ref: Any,
    out_ref: Any,
    *,
    params: AttentionParams,
    tile_rows: int,
    num_tiles: int,
) -> None:
    # The last tiles of a row have the most to read; they go first, so that the end of the grid is made of short ones.
    head, tile = pl.program_id(0), num_tiles - 1 - pl.program_id(1)
    row, start, end = (ref[tile] for ref in tile_refs)
    index_M, lane_H = indices(tile_rows), indices(params.lanes)
    token_M = start + jax.lax.div(index_M, params.group)
    member_M = jax.lax.rem(index_M, params.group)
    mask_M = (index_M < tile_rows // params.group * params.group) & (token_M < end)
    mask_MH = mask_M[:, None] & (lane_H < params.head_dim)[None, :]
    index = (token_M[:, None], head, member_M[:, None], lane_H[None, :])

    # Padding is a row behind the last one: it sees nothing and gets zeros.
    num_rows = length_ref.shape[0]
    is_padding, row = row == num_rows, jnp.minimum(row, num_rows - 1)
    position_M = jnp.where(mask_M, load_masked(position_ref, (token_M,), mask_M), -1)
    limit = jnp.where(is_padding, 0, jnp.minimum(length_ref[row], jnp.max(position_M) + 1))
    low = jnp.int32(0)
    if params.window is not None:
        nearest = jnp.min(jnp.where(mask_M, position_M, jnp.int32(2**30)))
        low = jnp.maximum(0, nearest - params.window + 1)
    add = functools.partial(
        add_block,
        params=params,
        query_MH=load_masked(query_ref, index, mask_MH),
        position_M=position_M,
        low=low,
        limit=limit,
        pages=pages,
        table_ref=table_ref,
        row=row,
        head=head,
    )
    begin = jax.lax.div(low, params.block_tokens)
    last = jax.lax.div(jnp.maximum(limit, 0) + params.block_tokens - 1, params.block_tokens)
    carry = jax.lax.fori_loop(begin, last, add, init_softmax(tile_rows, params.lanes))
    sink_M = None if sinks_ref is None else load_masked(sinks_ref, (head, member_M), mask_M).astype(jnp.float32)
    store_masked(out_ref, index, finish_softmax(carry, sink_M), mask_MH)
