"""Many queries per row: tiles of queries walk the row's pages from their window's start to their causal limit.

A tile has queries of one row only. Its lines are pairs of a query and one of the heads that share a key head, so that
every block of keys serves them all. The grid has a program for each tile that the rows could need at most; surplus
ones, whose tile is empty, end at once. Blocks that all queries of the tile see whole, below the diagonal and inside
the window, are added by a loop that masks nothing.

Where a chunk has too few tiles for the multiprocessors, the keys of a tile are split, and partial sums are added by a
second kernel. A tile with few keys is not split and written at once.
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
from jaxserve.attention.gpu.pages import (
    MIN_DOT,
    WIDE,
    WIDEST,
    AttentionParams,
    GpuPages,
    KernelConfig,
    next_power_of_two,
)
from jaxserve.attention.gpu.partials import PartialSums
from jaxserve.attention.inputs import AttentionInputs

FLOAT32_TILE_BYTES = 16 * 1024  # of sums: products of float32 run outside the tensor cores, operands in registers
NOT_A_QUERY = 2**30


class TileRefs(NamedTuple):
    """The places of tiles: `QueryTiles`, the positions of all queries, and the rows' lengths."""

    row_X: Any
    start_X: Any
    end_X: Any
    position_T: Any
    length_B: Any


def prefill(
    query_TKGH: Array,
    pages: GpuPages,
    inputs: AttentionInputs,
    sinks_KG: Array | None,
    *,
    params: AttentionParams,
    config: KernelConfig,
) -> Array:
    """Compute attention of all tokens, [T, K, G, H] in the query's dtype; padding gets zeros."""
    num_tokens, kv_heads, group, head_dim = query_TKGH.shape
    tile_rows = choose_tile_rows(inputs.max_queries_per_row, query_TKGH.dtype.itemsize, params, config)
    tiles = inputs.tile_queries(tile_rows // group)
    num_tiles = tiles.row_X.shape[0]
    max_tokens = inputs.page_table_BW.shape[1] * params.page_size
    splits = choose_splits(-(-num_tokens * group // tile_rows) * kv_heads, max_tokens, params, config)
    layout = _Layout(params, tile_rows, num_tiles, splits, config.prefill_split_tokens)
    refs = TileRefs(*tiles[:3], inputs.position_T, inputs.length_B)
    parts = None if splits == 1 else PartialSums.describe(num_tiles, kv_heads, splits, tile_rows, head_dim)
    launch = Launch("paged_prefill", num_tiles, parts, config.prefill_warps, config.prefill_stages, params.interpret)
    return launch.run(
        functools.partial(_prefill_kernel, layout=layout),
        functools.partial(_combine_kernel, layout=layout),
        (kv_heads, num_tiles, splits),
        query_TKGH,
        (pages.flatten(), inputs.page_table_BW, refs, sinks_KG),
        (refs, sinks_KG),
    )


def choose_tile_rows(max_queries: int, itemsize: int, params: AttentionParams, config: KernelConfig) -> int:
    """Return the rows of a tile, a power of two: no more than its sums have room for, and than a row can fill."""
    wanted = config.tile_rows
    if params.lanes > WIDE:
        wanted = config.wide_tile_rows if params.lanes <= WIDEST else config.widest_tile_rows
    if itemsize == 4:
        wanted = min(wanted, FLOAT32_TILE_BYTES // (4 * params.lanes))
    most = next_power_of_two(max_queries * params.group)
    return max(MIN_DOT, next_power_of_two(params.group), min(wanted, most))


def choose_splits(programs: int, max_tokens: int, params: AttentionParams, config: KernelConfig) -> int:
    """Return into how many splits the keys of a tile are cut at most; 1 where the tiles alone are enough programs."""
    if params.window is not None:
        max_tokens = min(max_tokens, params.window)
    return max(1, min(config.prefill_programs // programs, max_tokens // config.prefill_split_tokens))


class _Layout(NamedTuple):
    """Static facts of a call."""

    params: AttentionParams
    tile_rows: int
    num_tiles: int
    max_splits: int
    split_tokens: int

    def choose_tile(self) -> tuple[Array, Array]:
        """Return the key head and the tile of a program.

        The last tiles of a row have the most to read; they go first, so that the end of the grid is made of short ones.
        """
        return pl.program_id(0), self.num_tiles - 1 - pl.program_id(1)

    def find(self, tile: Array, refs: TileRefs) -> "_Tile":
        """Return where a tile's queries are and which blocks of keys they see."""
        group, block_tokens, window = self.params.group, self.params.block_tokens, self.params.window
        row, start, end = refs.row_X[tile], refs.start_X[tile], refs.end_X[tile]
        index_M = indices(self.tile_rows)
        token_M = start + jax.lax.div(index_M, group)
        mask_M = (index_M < self.tile_rows // group * group) & (token_M < end)
        position_M = jnp.where(mask_M, load_masked(refs.position_T, (token_M,), mask_M), -1)
        # Padding is a row behind the last one: it sees nothing and gets zeros.
        num_rows = refs.length_B.shape[0]
        is_padding, row = row == num_rows, jnp.minimum(row, num_rows - 1)
        farthest = jnp.max(position_M)
        nearest = jnp.min(jnp.where(mask_M, position_M, NOT_A_QUERY))
        limit = jnp.where(is_padding, 0, jnp.minimum(refs.length_B[row], farthest + 1))
        low = jnp.int32(0) if window is None else jnp.maximum(0, nearest - window + 1)
        begin = jax.lax.div(low, jnp.int32(block_tokens))
        end_block = jnp.maximum(begin, ceil_div(jnp.maximum(limit, 0), block_tokens))
        whole_begin = begin if window is None else ceil_div(jnp.maximum(0, farthest - window + 1), block_tokens)
        whole_end = jax.lax.div(jnp.clip(nearest + 1, 0, jnp.maximum(limit, 0)), jnp.int32(block_tokens))
        return _Tile(
            row=row,
            token_M=token_M,
            member_M=jax.lax.rem(index_M, group),
            mask_M=mask_M,
            visible=Visible(low, limit, position_M),
            begin=begin,
            end=end_block,
            whole_begin=whole_begin,
            whole_end=whole_end,
        )

    def count_splits(self, tile: "_Tile") -> Array:
        """Return the number of splits of a tile, at least 1."""
        tokens = (tile.end - tile.begin) * self.params.block_tokens
        return jnp.clip(jax.lax.div(tokens, jnp.int32(self.split_tokens)), 1, self.max_splits)


class _Tile(NamedTuple):
    """Queries of one row, M = queries times heads, and blocks of keys that they see.

    begin, end               the first block that any query sees, and the one behind the last
    whole_begin, whole_end   the same for blocks that all queries see whole; none if they are not in order
    """

    row: Array
    token_M: Array
    member_M: Array
    mask_M: Array
    visible: Visible
    begin: Array
    end: Array
    whole_begin: Array
    whole_end: Array

    def index(self, head: Array, params: AttentionParams) -> tuple[tuple[Array, ...], Array]:
        """Return where its queries are in [T, K, G, H], and which of them there are."""
        lane_H = indices(params.lanes)
        mask_MH = self.mask_M[:, None] & (lane_H < params.head_dim)[None, :]
        return (self.token_M[:, None], head, self.member_M[:, None], lane_H[None, :]), mask_MH

    def cut(self, split: Array, num_splits: Array) -> tuple[Array, Array, Array, Array]:
        """Return the borders of a split's loops: masked blocks, whole ones, and masked ones again."""
        blocks = ceil_div(self.end - self.begin, num_splits)
        begin = self.begin + split * blocks
        end = jnp.maximum(begin, jnp.minimum(self.end, begin + blocks))
        whole_begin = jnp.clip(self.whole_begin, begin, end)
        return begin, whole_begin, jnp.clip(self.whole_end, whole_begin, end), end


def _prefill_kernel(
    query_ref: Any,
    rows: GpuPages,
    table_ref: Any,
    refs: TileRefs,
    sinks_ref: Any,
    out_ref: Any,
    parts: PartialSums | None = None,
    *,
    layout: _Layout,
) -> None:
    params = layout.params
    (head, tile_number), split = layout.choose_tile(), pl.program_id(2)
    tile = layout.find(tile_number, refs)
    num_splits = layout.count_splits(tile)
    index, mask_MH = tile.index(head, params)

    def attend() -> SoftmaxState:
        add = functools.partial(
            add_block,
            params=params,
            query_MH=load_masked(query_ref, index, mask_MH),
            keys=RowKeys(rows, table_ref, tile.row, head),
        )
        add_masked = functools.partial(add, visible=tile.visible)
        begin, whole_begin, whole_end, end = tile.cut(split, num_splits)
        state = init_softmax(layout.tile_rows, params.lanes)
        if params.window is not None:
            state = jax.lax.fori_loop(begin, whole_begin, add_masked, state)
        state = jax.lax.fori_loop(whole_begin, whole_end, functools.partial(add, visible=None), state)
        return jax.lax.fori_loop(whole_end, end, add_masked, state)

    def answer(state: SoftmaxState) -> None:
        sink_M = load_sinks(sinks_ref, head, tile.member_M, tile.mask_M)
        store_masked(out_ref, index, finish_softmax(state, sink_M), mask_MH)

    if parts is None:
        answer(attend())
        return

    @pl.when(split < num_splits)
    def _() -> None:
        state = attend()
        pl.when(num_splits == 1)(lambda: answer(state))
        pl.when(num_splits > 1)(lambda: parts.store(tile_number, head, split, state))


def _combine_kernel(
    whole_ref: Any, parts: PartialSums, refs: TileRefs, sinks_ref: Any, out_ref: Any, *, layout: _Layout
) -> None:
    """Answer for a tile of several splits; the others are answered."""
    head, tile_number = layout.choose_tile()
    tile = layout.find(tile_number, refs)
    num_splits = layout.count_splits(tile)
    index, mask_MH = tile.index(head, layout.params)

    @pl.when(num_splits > 1)
    def _() -> None:
        state = parts.add_up(tile_number, head, num_splits, rows=layout.tile_rows, lanes=layout.params.lanes)
        sink_M = load_sinks(sinks_ref, head, tile.member_M, tile.mask_M)
        store_masked(out_ref, index, finish_softmax(state, sink_M), mask_MH)
