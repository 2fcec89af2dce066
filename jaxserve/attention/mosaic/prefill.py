"""Many queries of a row: tiles of one row's queries, all heads that share a key head in one product.

A tile goes over the keys that its queries see, in blocks of pages that come while the one before is computed with.
Blocks that every query of the tile sees whole are not masked; of the others, parts that none sees are left out.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.inputs import AttentionInputs, QueryTiles
from jaxserve.attention.mosaic.fetch import Block, HeadBlock, Items, Ring, keep_values, loop_if, ring_shapes
from jaxserve.attention.mosaic.pages import LANES, MASKED_SCORE, SUBLANES, UNROLLED_HEADS, MosaicPages, MosaicParams
from jaxserve.attention.mosaic.softmax import Softmax, add_scores, begin_if, finish, score_head, state_shapes
from jaxserve.attention.mosaic.vector_memory import VECTOR_BYTES


def prefill(
    query_TKGL: Array,
    pages: MosaicPages,
    inputs: AttentionInputs,
    sinks_KG: Array | None,
    *,
    params: MosaicParams,
    interpret: Any,
) -> Array:
    """Return the answers of all queries, [T, K, G, V] in their type; padding gets zeros."""
    num_tokens, kv_heads, group, lanes = query_TKGL.shape
    queries = params.tile_queries
    tiles = inputs.tile_queries(queries)
    num_tiles, index_T = len(tiles.row_X), jnp.arange(num_tokens)
    token_XQ = jnp.minimum(tiles.start_X[:, None] + jnp.arange(queries), num_tokens - 1)
    query_XKML = query_TKGL[token_XQ].swapaxes(1, 2).reshape(num_tiles, kv_heads, queries * group, lanes)
    out_XKMV = _call(query_XKML, pages, inputs, tiles, sinks_KG, params=params, interpret=interpret)
    out_XKQGV = out_XKMV.reshape(num_tiles, kv_heads, queries, group, params.value_lanes)
    is_begun_TX = (index_T[:, None] >= tiles.start_X) & (jnp.arange(num_tiles) < tiles.num_real_tiles)
    tile_T = jnp.maximum(is_begun_TX.sum(1) - 1, 0)
    out_TKGV = out_XKQGV[tile_T, :, jnp.clip(index_T - tiles.start_X[tile_T], 0, queries - 1)]
    return jnp.where(inputs.is_real_T[:, None, None, None], out_TKGV, 0)


def _call(
    query_XKML: Array,
    pages: MosaicPages,
    inputs: AttentionInputs,
    tiles: QueryTiles,
    sinks_KG: Array | None,
    *,
    params: MosaicParams,
    interpret: Any,
) -> Array:
    """Run the kernel over tiles of queries; those of padding get anything."""
    num_tiles, tile = len(query_XKML), query_XKML.shape[1:]
    num_rows, width = inputs.page_table_BW.shape
    row_X, position_T = jnp.minimum(tiles.row_X, num_rows - 1), jnp.asarray(inputs.position_T)
    first_X = position_T[jnp.minimum(tiles.start_X, len(position_T) - 1)]
    end_X = first_X + tiles.end_X - tiles.start_X
    low_X = jnp.zeros_like(first_X) if params.window is None else jnp.maximum(first_X - params.window + 1, 0)
    items = (
        row_X,
        low_X // params.page_size,
        (end_X + params.page_size - 1) // params.page_size,
        tiles.num_real_tiles[None],
        jnp.asarray(inputs.page_table_BW).reshape(-1),
    )
    scalars = (*items, first_X, end_X, jnp.asarray(inputs.length_B)[row_X])
    line = (*tile[:2], LANES)
    sinks = []
    if sinks_KG is not None:
        sinks.append(jnp.broadcast_to(jnp.tile(sinks_KG, (1, params.tile_queries))[..., None], line))
    answer = (*tile[:2], params.value_lanes)
    return pl.pallas_call(
        functools.partial(
            _prefill_kernel, num_planes=len(pages.planes), has_sinks=bool(sinks), width=width, params=params
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(num_tiles,),
            in_specs=[
                pl.BlockSpec((1, *tile), lambda tile, *_: (tile, 0, 0, 0)),
                *[pl.BlockSpec(line, lambda tile, *_: (0, 0, 0))] * len(sinks),
                *[pl.BlockSpec(memory_space=pl.ANY)] * len(pages.planes),
            ],
            out_specs=pl.BlockSpec((1, *answer), lambda tile, *_: (tile, 0, 0, 0)),
            scratch_shapes=[*ring_shapes(pages.planes, params), *state_shapes(tile[0], tile[1], params.value_lanes)],
        ),
        out_shape=jax.ShapeDtypeStruct((num_tiles, *answer), query_XKML.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",), disable_bounds_checks=True, vmem_limit_bytes=VECTOR_BYTES
        ),
        interpret=interpret,
        name="paged_prefill",
    )(*scalars, query_XKML, *sinks, *pages.planes)


def _prefill_kernel(*refs: Any, num_planes: int, has_sinks: bool, width: int, params: MosaicParams) -> None:
    items, (first_ref, end_ref, length_ref, query_ref) = Items.read(refs, width), refs[5:9]
    sinks_ref, refs = (refs[9], refs[10:]) if has_sinks else (None, refs[9:])
    planes, out_ref, blocks = refs[:num_planes], refs[num_planes], refs[num_planes + 1 : 2 * num_planes + 1]
    semaphores, cursor, *state_refs = refs[2 * num_planes + 1 :]
    ring = Ring(items, planes, blocks, semaphores, cursor, params)
    state, tile = Softmax(*state_refs), pl.program_id(0)

    ring.begin_if(tile == 0)

    @pl.when(tile < items.count_1[0])
    def _() -> None:
        num_pages = items.end_page_I[tile] - items.first_page_I[tile]
        first, end = first_ref[tile], end_ref[tile]

        def add_block(index: Array, _: None) -> None:
            ring.fetch_next()
            block = ring.wait_next()
            _add_block(ring, state, query_ref, sinks_ref, block, first, end, length_ref[tile], is_first=index == 0)

        jax.lax.fori_loop(0, pl.cdiv(num_pages, params.block_pages), add_block, None)

        def answer(head: Array, _: None) -> None:
            out_ref[0, head] = finish(state.load(head)).astype(out_ref.dtype)

        jax.lax.fori_loop(0, params.kv_heads, answer, None, unroll=math.gcd(params.kv_heads, UNROLLED_HEADS))


def _add_block(
    ring: Ring,
    state: Softmax,
    query_ref: Any,
    sinks_ref: Any,
    block: Block,
    first: Array,
    end: Array,
    length: Array,
    *,
    is_first: Array,
) -> None:
    """Add a block to a tile whose queries are at positions `first` to `end` - 1 of a row with so many tokens.

    It is added whole and without a mask if every query sees all of it, else up to the last key that any query sees.
    """
    params = ring.params
    start = block.page * params.page_size
    is_whole = start + params.block_tokens <= first + 1
    if params.window is not None:
        is_whole &= start > end - 1 - params.window
    add = functools.partial(_add_tokens, ring, state, query_ref, sinks_ref, block, is_first)
    loop_if(is_whole, functools.partial(add, params.block_tokens, None))
    seen = jnp.minimum(end - start, params.block_tokens)
    sizes = params.part_sizes
    for fewer, size in zip((0, *sizes), sizes, strict=False):
        is_size = jnp.logical_not(is_whole) & (seen > fewer) & (seen <= size)
        part = Part(start - first, ring.count_tokens(block, length))
        loop_if(is_size, functools.partial(add, size, part))


class Part(NamedTuple):
    """A block that not every query sees whole: scalars.

    behind       how far the first key is behind the first query
    num_tokens   the first tokens that are of the row
    """

    behind: Array
    num_tokens: Array


def _add_tokens(
    ring: Ring,
    state: Softmax,
    query_ref: Any,
    sinks_ref: Any,
    block: Block,
    is_first: Array,
    size: int,
    part: Part | None,
) -> None:
    """Add the first `size` tokens of a block to all heads; all of it, to all queries, if part is None."""
    params = ring.params
    unrolled = math.gcd(params.kv_heads, UNROLLED_HEADS)
    # A head alone is cut into two, so that there are products of one beside the softmax of the other.
    tile_rows = query_ref.shape[2]
    num_rows = tile_rows if unrolled > 1 or tile_rows % (4 * SUBLANES) else tile_rows // 2

    def score(head: Any, start: int) -> tuple[HeadBlock, Array]:
        keys = ring.load_head(block.slot, head, size, query_ref.dtype)
        if part is not None:
            keys = keep_values(keys, part.num_tokens)
        score_MS = score_head(query_ref[0, head, pl.ds(start, num_rows)], keys, params)
        if part is None:
            return keys, score_MS
        return keys, jnp.where(_see(part, start, score_MS.shape, params), score_MS, MASKED_SCORE)

    def add(turn: Array, _: None) -> None:
        starts = range(0, tile_rows, num_rows)
        stages: list[tuple[Any, int]] = [
            (turn * unrolled + index, start) for index in range(unrolled) for start in starts
        ]
        scored = score(*stages[0])
        for (head, start), next_stage in itertools.zip_longest(stages, stages[1:]):
            keys, score_MS = scored
            if next_stage is not None:
                scored = score(*next_stage)  # products, which go on beside the softmax of this stage
            rows = pl.ds(start, num_rows)
            sums = begin_if(is_first, state.load(head, rows), head, sinks_ref, rows)
            state.store(head, add_scores(sums, score_MS, keys), rows)

    jax.lax.fori_loop(0, params.kv_heads // unrolled, add, None)


def _see(part: Part, first_row: int, shape: tuple[int, ...], params: MosaicParams) -> Array:
    """Return which keys the queries from a row of a tile on see, bool [M, S]."""
    # Query m is m // group behind the first; the group is multiplied to the keys, one line, instead.
    query_MS = first_row + jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    behind_1S = part.behind + jax.lax.broadcasted_iota(jnp.int32, (1, shape[1]), 1)
    seen_MS = behind_1S * params.group <= query_MS
    if params.window is not None:
        seen_MS &= (behind_1S + params.window) * params.group > query_MS
    return seen_MS
