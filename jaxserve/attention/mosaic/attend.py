"""One call of attention: what it fixes before it runs, and the kernel that it is for."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.attention.mosaic.pages import (
    LANES,
    LOG2_E,
    SUBLANES,
    MosaicConfig,
    MosaicPages,
    MosaicParams,
    pad_last,
)
from jaxserve.attention.mosaic.vector_memory import fit_prefill
from jaxserve.attention.page_types import has_scales
from jaxserve.errors import BadConfig

TABLE_BYTES = 2**20 - 2**15  # scalar memory of a core is 1 MiB on v5e and later; the kernels need some of it
MAX_TURN_BLOCKS = 8


def check_table(rows: int, width: int) -> None:
    """Raise BadConfig if a page table of so many rows and pages is larger than scalar memory."""
    if 4 * rows * width > TABLE_BYTES:
        raise BadConfig(
            f"attention_backend 'mosaic': a page table of {rows} rows x {width} pages does not fit into the 1 MiB"
            " of scalar memory; try a larger --block-size, or a smaller --max-model-len or --max-num-seqs."
        )


def attend(
    query_TNH: Array,
    pages: MosaicPages,
    inputs: AttentionInputs,
    sinks: Array | None = None,
    *,
    config: MosaicConfig,
    interpret: Any,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Array:
    """Return the answers of all queries, [T, N, V] in the type that they are multiplied in, V as pages hold values.

    Raises BadConfig if the page table is larger than scalar memory.
    """
    from jaxserve.attention.mosaic.decode import decode
    from jaxserve.attention.mosaic.prefill import prefill

    check_table(*inputs.page_table_BW.shape)
    params = make_params(
        config,
        query_TNH,
        pages,
        inputs,
        scale=scale,
        window=window,
        softcap=softcap,
        has_sinks=sinks is not None,
    )
    query_TNL = pad_last(query_TNH.astype(_query_type(query_TNH, pages)), params.lanes)
    query_TKGL = query_TNL.reshape(len(query_TNH), params.kv_heads, -1, params.lanes)
    sinks_KG = None if sinks is None else LOG2_E * sinks.astype(jnp.float32).reshape(params.kv_heads, -1)
    run = decode if inputs.max_queries_per_row == 1 else prefill
    out_TKGV = run(query_TKGL, pages, inputs, sinks_KG, params=params, interpret=interpret)
    return out_TKGV.reshape(*query_TNH.shape[:2], params.value_lanes)


def make_params(
    config: MosaicConfig,
    query_TNH: Array,
    pages: MosaicPages,
    inputs: AttentionInputs,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    has_sinks: bool = False,
) -> MosaicParams:
    """Return what a call fixes: blocks that fit into a row, tiles that fit into the queries of a row, and both into
    vector memory.
    """
    _, num_stored, page_size, lanes = pages.number_PXZL.shape
    is_decode = inputs.max_queries_per_row == 1
    page_bytes = num_stored * page_size * lanes * pages.number_PXZL.dtype.itemsize
    group = query_TNH.shape[1] // pages.kv_heads
    is_short = is_decode and group < config.decode_rows
    most_tokens = config.decode_tokens if is_short else config.prefill_tokens
    most_pages = min(inputs.page_table_BW.shape[1], config.block_bytes // page_bytes, most_tokens // page_size)
    block_pages = _floor_power(most_pages)
    turn_blocks = min(config.decode_heads // pages.kv_heads, config.turn_bytes // (block_pages * page_bytes))
    tile_rows = config.tile_rows * (2 if pages.kv_heads == 1 else 1)  # prefill cuts a head alone into two
    tile_queries = _floor_power(tile_rows // group)
    params = MosaicParams(
        kv_heads=pages.kv_heads,
        group=group,
        page_size=page_size,
        lanes=lanes,
        value_lanes=pages.value_lanes,
        is_paired=pages.is_paired,
        block_pages=block_pages,
        joined_heads=2 if is_decode and lanes == LANES and pages.kv_heads % 2 == 0 else 1,
        turn_blocks=_floor_power(min(turn_blocks, MAX_TURN_BLOCKS if is_short else 2)) if is_decode else 1,
        tile_queries=1 if is_decode else min(tile_queries, max(SUBLANES * 2, len(query_TNH))),
        part_tokens=tuple(config.part_tokens),
        scale=scale * LOG2_E if softcap is None else scale / softcap,
        window=window,
        softcap=softcap,
        number_type=pages.number_type,
    )
    return params if is_decode else fit_prefill(params, _query_type(query_TNH, pages), pages.planes, has_sinks)


def _query_type(query_TNH: Array, pages: MosaicPages) -> Any:
    """Return the type that queries are multiplied in."""
    return query_TNH.dtype if has_scales(pages.number_type) else pages.number_type


def _floor_power(number: int) -> int:
    """Return the greatest power of two up to a number; 1 if there is none."""
    return 1 << max(0, number.bit_length() - 1)
