"""Vector memory: what the kernels need of it, and sizes with which that fits, whatever the heads.

A core has 128 MiB on v5e and v6e and 64 MiB on v5p and v7x, but 16 MiB on v2, v3 and v4, where the kernels do not
compile (jax/_src/pallas/mosaic/tpu_info.py); a kernel gets USUAL_BYTES unless it asks for more.
"""

import math
import re
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxserve.attention.mosaic.pages import LANES, SUBLANES, UNROLLED_HEADS, MosaicParams, array_bytes

USUAL_BYTES = 16 * 2**20
VECTOR_BYTES = 64 * 2**20  # what a kernel may ask for
BUFFER_BYTES = VECTOR_BYTES * 3 // 4  # its buffers; the compiler needs some of the rest
MAX_SCORE_BYTES = 24 * 2**20
SCORE_BYTES = 12  # of a query and a key: the score, the weight, and both in other types


def has_vector_memory(device_kind: str) -> bool:
    """Return whether a core of such TPUs, by JAX's name, has the VECTOR_BYTES that a kernel may ask for."""
    return re.match(r"TPU v[234]\b", device_kind) is None


def usual_or_more(num_bytes: int) -> int | None:
    """Return vmem_limit_bytes of a kernel with so many bytes of buffers: None where what it gets anyway will do."""
    return None if num_bytes <= USUAL_BYTES * 3 // 4 else VECTOR_BYTES


def decode_bytes(params: MosaicParams, query_type: Any, planes: tuple[Array, ...], turn_rows: int) -> int:
    """Return the bytes of the buffers of decode, with `turn_rows` rows in a turn of the grid."""
    tile = (params.kv_heads, -(-params.group // SUBLANES) * SUBLANES)
    return _tile_bytes(params, tile, query_type, turn_rows, has_sinks=True) + _ring_bytes(params, planes)


def prefill_bytes(params: MosaicParams, query_type: Any, planes: tuple[Array, ...], has_sinks: bool) -> int:
    """Return the bytes of the buffers of prefill, and of the scores of a turn of its inner loop."""
    tile = (params.kv_heads, params.tile_queries * params.group)
    buffers = _tile_bytes(params, tile, query_type, 1, has_sinks) + _ring_bytes(params, planes)
    return buffers + _score_bytes(params)


def fit_prefill(params: MosaicParams, query_type: Any, planes: tuple[Array, ...], has_sinks: bool) -> MosaicParams:
    """Return parameters with fewer pages in a block, and fewer queries in a tile, where so many do not fit."""
    while _score_bytes(params) > MAX_SCORE_BYTES and params.block_pages > 1:
        params = replace(params, block_pages=params.block_pages // 2)
    while prefill_bytes(params, query_type, planes, has_sinks) > BUFFER_BYTES and params.tile_queries > 1:
        params = replace(params, tile_queries=params.tile_queries // 2)
    return params


def _tile_bytes(params: MosaicParams, tile: tuple[int, int], query_type: Any, turn_tiles: int, has_sinks: bool) -> int:
    """Queries and answers, and sinks, twice: one is moved while the other is computed with; and the softmax."""
    line_bytes = array_bytes((*tile, LANES), jnp.float32)
    sizes = ((*tile, params.lanes), (*tile, params.value_lanes))
    moved = turn_tiles * sum(array_bytes(each, query_type) for each in sizes) + line_bytes * has_sinks
    return 2 * moved + 2 * line_bytes + array_bytes(sizes[1], jnp.float32)


def _ring_bytes(params: MosaicParams, planes: tuple[Array, ...]) -> int:
    page_bytes = sum(array_bytes(plane.shape[1:], plane.dtype) for plane in planes)
    return params.num_buffers * params.block_pages * page_bytes


def _score_bytes(params: MosaicParams) -> int:
    heads = math.gcd(params.kv_heads, UNROLLED_HEADS)
    return heads * params.tile_queries * params.group * params.block_tokens * SCORE_BYTES
