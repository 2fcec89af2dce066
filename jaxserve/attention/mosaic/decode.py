"""One query a row: the keys of all heads come in blocks of pages, and all heads that share a key head are one tile.

The rows are one sequence of blocks: some are computed with at a time, of one row or of several, while those behind them
are on their way, across rows and turns of the grid. What a block adds to its row is computed alone, so that the steps
of one block fill the time in which those of another wait. A row fetches the pages that its query sees and no others.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.attention.mosaic.fetch import Block, Items, Ring, keep_values, loop_if, ring_shapes
from jaxserve.attention.mosaic.pages import LANES, MASKED_SCORE, SUBLANES, MosaicPages, MosaicParams
from jaxserve.attention.mosaic.softmax import (
    Softmax,
    Sums,
    begin_if,
    finish,
    merge,
    score_head,
    state_shapes,
    sum_scores,
)
from jaxserve.attention.mosaic.vector_memory import decode_bytes, usual_or_more

GRID_ROWS = 8  # rows of one turn of the grid


def decode(
    query_BKGL: Array,
    pages: MosaicPages,
    inputs: AttentionInputs,
    sinks_KG: Array | None,
    *,
    params: MosaicParams,
    interpret: Any,
) -> Array:
    """Return the answers of one query a row, [B, K, G, V] in the query's type; rows without a query get zeros."""
    num_rows, width = inputs.page_table_BW.shape
    length_B = jnp.asarray(inputs.length_B)
    low_B = jnp.zeros_like(length_B) if params.window is None else jnp.maximum(length_B - params.window, 0)
    items = (
        jnp.arange(num_rows, dtype=jnp.int32),
        low_B // params.page_size,
        (length_B + params.page_size - 1) // params.page_size,
        jnp.asarray(inputs.query_start_B1)[-1:],
        jnp.asarray(inputs.page_table_BW).reshape(-1),
    )
    per_turn = math.gcd(num_rows, GRID_ROWS)
    scalars = (*items, low_B, length_B, _count_blocks(items[1], items[2], items[3], per_turn, params))
    missing = -params.group % SUBLANES
    query_BKML = jnp.pad(query_BKGL, ((0, 0), (0, 0), (0, missing), (0, 0)))
    joined = params.joined_heads  # whose queries lie one behind the other
    query_BKML = query_BKML.reshape(num_rows, params.kv_heads // joined, -1, params.lanes)
    tile = query_BKML.shape[1:]
    line = (*tile[:2], LANES)
    sinks = []
    if sinks_KG is not None:
        sinks_KM = jnp.pad(sinks_KG, ((0, 0), (0, missing))).reshape(tile[:2])
        sinks.append(jnp.broadcast_to(sinks_KM[..., None], line))
    answer = (*tile[:2], params.value_lanes)
    out_BKMV = pl.pallas_call(
        functools.partial(
            _decode_kernel, num_planes=len(pages.planes), has_sinks=bool(sinks), width=width, params=params
        ),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(num_rows // per_turn,),
            in_specs=[
                pl.BlockSpec((per_turn, *tile), lambda turn, *_: (turn, 0, 0, 0)),
                *[pl.BlockSpec(line, lambda turn, *_: (0, 0, 0))] * len(sinks),
                *[pl.BlockSpec(memory_space=pl.ANY)] * len(pages.planes),
            ],
            out_specs=pl.BlockSpec((per_turn, *answer), lambda turn, *_: (turn, 0, 0, 0)),
            scratch_shapes=[*ring_shapes(pages.planes, params), *state_shapes(tile[0], tile[1], params.value_lanes)],
        ),
        out_shape=jax.ShapeDtypeStruct((num_rows, *answer), query_BKML.dtype),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",),
            disable_bounds_checks=True,
            vmem_limit_bytes=usual_or_more(decode_bytes(params, query_BKML.dtype, pages.planes, per_turn)),
        ),
        interpret=interpret,
        name="paged_decode",
    )(*scalars, query_BKML, *sinks, *pages.planes)
    return out_BKMV.reshape(num_rows, params.kv_heads, -1, params.value_lanes)[:, :, : params.group]


def _count_blocks(first_page_B: Array, end_page_B: Array, count_1: Array, per_turn: int, params: MosaicParams) -> Array:
    """Return the number of blocks before each turn of the grid, and of all, int32 [turns + 1]."""
    blocks_B = (end_page_B - first_page_B + params.block_pages - 1) // params.block_pages
    blocks_B = jnp.where(jnp.arange(len(blocks_B)) < count_1, blocks_B, 0)
    end_B = jnp.cumsum(blocks_B, dtype=jnp.int32)
    return jnp.concatenate([jnp.zeros(1, jnp.int32), end_B[per_turn - 1 :: per_turn]])


def _decode_kernel(*refs: Any, num_planes: int, has_sinks: bool, width: int, params: MosaicParams) -> None:
    items, (low_ref, length_ref, first_block_ref, query_ref) = Items.read(refs, width), refs[5:9]
    sinks_ref, refs = (refs[9], refs[10:]) if has_sinks else (None, refs[9:])
    planes, out_ref, blocks = refs[:num_planes], refs[num_planes], refs[num_planes + 1 : 2 * num_planes + 1]
    semaphores, cursor, *state_refs = refs[2 * num_planes + 1 :]
    ring = Ring(items, planes, blocks, semaphores, cursor, params)
    state, turn = Softmax(*state_refs), pl.program_id(0)
    first_row, per_turn = turn * query_ref.shape[0], query_ref.shape[0]
    ring.begin_if(turn == 0)

    num_real = jnp.clip(items.count_1[0] - first_row, 0, per_turn)

    def clear(row: Array, _: None) -> None:
        out_ref[row] = jnp.zeros(out_ref.shape[1:], out_ref.dtype)

    jax.lax.fori_loop(num_real, per_turn, clear, None)
    first_block, end_block = first_block_ref[turn], first_block_ref[turn + 1]

    def add_blocks(index: Array, _: None) -> None:
        begun = first_block + index * params.turn_blocks
        jax.lax.fori_loop(0, params.turn_blocks, lambda *_: ring.fetch_next(), None)
        taken = [Taken(ring.wait_next(), jnp.bool_(True))]
        for place in range(1, params.turn_blocks):
            is_real = begun + place < end_block
            taken.append(Taken(ring.wait_next(is_real, taken[-1].block), is_real))
        most = functools.reduce(
            jnp.maximum, [length_ref[block.item] - block.page * params.page_size for block, _ in taken]
        )

        def add(size: int) -> None:
            sums = _sum_blocks(ring, taken, query_ref, first_row, low_ref, length_ref, size)
            for head in range(len(sums[0])):
                total = state.load(head)
                for (block, is_real), summed in zip(taken, sums, strict=True):
                    is_first = is_real & (block.page == items.first_page_I[block.item])
                    total = merge(begin_if(is_first, total, head, sinks_ref), summed[head])
                    out_ref[block.item - first_row, head] = finish(total).astype(out_ref.dtype)
                state.store(head, total)

        sizes = params.decode_sizes
        for fewer, size in zip((0, *sizes), sizes, strict=False):
            is_size = (most > fewer) & ((most <= size) | (size == sizes[-1]))
            loop_if(is_size, functools.partial(add, size))

    jax.lax.fori_loop(0, pl.cdiv(end_block - first_block, params.turn_blocks), add_blocks, None)


class Taken(NamedTuple):
    """A block that is computed with; `is_real`, a bool scalar, is False for one that was computed with already."""

    block: Block
    is_real: Array


def _sum_blocks(
    ring: Ring, taken: list[Taken], query_ref: Any, first_row: Array, low_ref: Any, length_ref: Any, size: int
) -> list[list[Sums]]:
    """Return the sums of the first `size` tokens of each block alone, head by head.

    The products come first: no softmax waits for another's.
    """
    params = ring.params
    scored = []
    for block, is_real in taken:
        lane_1S = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
        position_1S = block.page * params.page_size + lane_1S
        length = jnp.where(is_real, length_ref[block.item], 0)
        seen_1S = (position_1S < length) & (position_1S >= low_ref[block.item])
        for head in range(query_ref.shape[1]):
            keys = ring.load_joined(block.slot, head * params.joined_heads, size, query_ref.dtype)
            score_MS = score_head(query_ref[block.item - first_row, head], keys, params)
            keys = keep_values(keys, ring.count_tokens(block, length_ref[block.item]))
            scored.append((keys, jnp.where(seen_1S, score_MS, MASKED_SCORE)))
    sums = [sum_scores(score_MS, keys, params) for keys, score_MS in scored]
    return [sums[start : start + query_ref.shape[1]] for start in range(0, len(sums), query_ref.shape[1])]
