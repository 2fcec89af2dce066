"""One query a row: the keys of all heads come in blocks of pages, and all heads that share a key head are one tile.

The rows are one sequence of blocks: while one is computed with, those behind it are on their way, across rows and
turns of the grid. A row fetches the pages that its query sees and no others.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.attention.mosaic.fetch import Items, Ring, ring_shapes
from jaxserve.attention.mosaic.pages import LANES, SUBLANES, MosaicPages, MosaicParams
from jaxserve.attention.mosaic.softmax import Softmax, add_head, state_shapes
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
    scalars = (*items, low_B, length_B)
    missing = -params.group % SUBLANES
    query_BKML = jnp.pad(query_BKGL, ((0, 0), (0, 0), (0, missing), (0, 0)))
    per_turn, tile = math.gcd(num_rows, GRID_ROWS), query_BKML.shape[1:]
    line = (*tile[:2], LANES)
    sinks = []
    if sinks_KG is not None:
        sinks.append(jnp.broadcast_to(jnp.pad(sinks_KG, ((0, 0), (0, missing)))[..., None], line))
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
    return out_BKMV[:, :, : params.group]


def _decode_kernel(*refs: Any, num_planes: int, has_sinks: bool, width: int, params: MosaicParams) -> None:
    items, (low_ref, length_ref, query_ref) = Items.read(refs, width), refs[5:8]
    sinks_ref, refs = (refs[8], refs[9:]) if has_sinks else (None, refs[8:])
    planes, out_ref, blocks = refs[:num_planes], refs[num_planes], refs[num_planes + 1 : 2 * num_planes + 1]
    semaphores, cursor, *state_refs = refs[2 * num_planes + 1 :]
    ring = Ring(items, planes, blocks, semaphores, cursor, params)
    state = Softmax(*state_refs)

    @pl.when(pl.program_id(0) == 0)
    def _() -> None:
        ring.begin()
        for head in range(params.kv_heads):
            state.begin(head, sinks_ref)

    def compute(index: Array, row: Array) -> None:
        first, end = items.first_page_I[row], items.end_page_I[row]
        low, length = low_ref[row], length_ref[row]

        def add_block(block: Array, _: None) -> None:
            page = first + block * params.block_pages
            ring.fetch_next()
            num_pages = jnp.minimum(params.block_pages, end - page)
            slot = ring.wait(num_pages)
            ring.clear_behind(slot, page, num_pages, length)
            lane_1S = jax.lax.broadcasted_iota(jnp.int32, (1, params.block_tokens), 1)
            position_1S = page * params.page_size + lane_1S
            seen_1S = (position_1S < length) & (position_1S >= low)
            for head in range(params.kv_heads):
                keys = ring.load_head(slot, head, params.block_tokens, query_ref.dtype)
                add_head(state, head, query_ref[index, head], keys, seen_1S, params)

        jax.lax.fori_loop(0, pl.cdiv(end - first, params.block_pages), add_block, None)
        for head in range(params.kv_heads):
            out_ref[index, head] = state.finish(head, sinks_ref).astype(out_ref.dtype)

    def run_row(index: Array, _: None) -> None:
        row = pl.program_id(0) * query_ref.shape[0] + index
        is_real = row < items.count_1[0]
        pl.when(is_real)(lambda: compute(index, row))

        @pl.when(jnp.logical_not(is_real))
        def _() -> None:
            out_ref[index] = jnp.zeros(out_ref.shape[1:], out_ref.dtype)

    jax.lax.fori_loop(0, query_ref.shape[0], run_row, None)
