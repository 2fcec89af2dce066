"""Attention through XLA that walks the live blocks of pages with a running softmax, whatever the pages' layout.

Measured with jax 0.10.2 on two cores of an AMD EPYC, 9 query and 3 key heads of 64, 30 layers, 230 live
tokens: gathering the whole table costs 231 ms at 32 rows, this walk 75 ms (43 and 25 ms at 8 rows). A block
is gathered, used and forgotten while it is still in the cache, only live blocks are visited, and one program
serves every length. Blocks lie at fixed positions and are added in order, and what is masked adds exact
zeros, so a row's result does not depend on the lengths of its neighbours.
"""

from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.attention.reference import MASKED_SCORE

SEES_NOTHING = -1  # the position of what is not a query
TILE_QUERIES = 64  # queries of one row that walk together
BLOCK_TOKENS = 128  # what one turn of the walk reads; 256 was no faster at 32 rows


class BlockPages(Protocol):
    """One layer's pages as `attend_blocks` reads them, some at a time."""

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        ...

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        ...

    @property
    def value_dim(self) -> int:
        """Numbers of a value head."""
        ...

    def read_keys(self, page_BX: Array) -> Array:
        """Return key_BXKHZ, in any type."""
        ...

    def read_values(self, page_BX: Array) -> Array:
        """Return value_BXKZH, in any type."""
        ...

    def read_scales(self, page_BX: Array) -> tuple[Array, Array] | None:
        """Return what keys and values are multiplied by, both [B, X, K, Z]; None: nothing."""
        ...


def attend_blocks(
    query_TNH: Array,
    pages: BlockPages,
    inputs: AttentionInputs,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
    precision: jax.lax.Precision | None = None,
) -> Array:
    """Return softmax(scale * q.k) . v of every query in the query's type, [T, N, value_dim]; see `AttentionBackend`.

    precision   of the two products, whose operands are float32
    """
    num_tokens, num_heads, head_dim = query_TNH.shape
    out_shape = (num_tokens, num_heads, pages.value_dim)
    walk = partial(_walk, pages, scale=scale, window=window, softcap=softcap, sinks=sinks, precision=precision)
    query_TKGH = query_TNH.astype(jnp.float32).reshape(num_tokens, pages.kv_heads, -1, head_dim)
    if inputs.max_queries_per_row == 1:
        out_BCNH = walk(query_TKGH[:, None], inputs.position_T[:, None], inputs.page_table_BW, inputs.length_B)
        return out_BCNH.reshape(out_shape).astype(query_TNH.dtype)

    tiles = inputs.tile_queries(TILE_QUERIES)
    # The last tile may reach past the end.
    query_SKGH = jnp.pad(query_TKGH, ((0, TILE_QUERIES), (0, 0), (0, 0), (0, 0)))
    position_S = jnp.pad(inputs.position_T, (0, TILE_QUERIES))

    def add_tile(tile: Array, out_SNH: Array) -> Array:
        row, start = tiles.row_X[tile], tiles.start_X[tile]
        position_C = jax.lax.dynamic_slice_in_dim(position_S, start, TILE_QUERIES)
        is_own_C = start + jnp.arange(TILE_QUERIES) < tiles.end_X[tile]
        out_1CNH = walk(
            jax.lax.dynamic_slice_in_dim(query_SKGH, start, TILE_QUERIES)[None],
            jnp.where(is_own_C, position_C, SEES_NOTHING)[None],
            inputs.page_table_BW[row][None],
            inputs.length_B[row][None],
        )
        # A tile writes zeros behind its last query; what belongs there is written by the tiles that come later.
        return jax.lax.dynamic_update_slice_in_dim(out_SNH, out_1CNH[0], start, axis=0)

    out_SNH = jnp.zeros((num_tokens + TILE_QUERIES, *out_shape[1:]), jnp.float32)
    out_SNH = jax.lax.fori_loop(0, tiles.num_real_tiles, add_tile, out_SNH)
    return out_SNH[:num_tokens].astype(query_TNH.dtype)


def _walk(
    pages: BlockPages,
    query_BCKGH: Array,
    position_BC: Array,
    page_table_BW: Array,
    length_B: Array,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Array | None,
    precision: jax.lax.Precision | None,
) -> Array:
    """Compute attention for C queries of each row, float32 [B, C, N, H], from the first live block to the last."""
    rows, width = page_table_BW.shape
    size = pages.page_size
    block_pages = min(max(1, BLOCK_TOKENS // size), width)
    block_tokens = block_pages * size
    query_BKGCH = (query_BCKGH * scale).transpose(0, 2, 3, 1, 4)
    # The walk's last block may reach past the table: its extra entries name page 0 and are never live.
    table_BW = jnp.pad(page_table_BW, ((0, 0), (0, -width % block_pages)))

    def add_block(block: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        running_max_BKGC, running_sum_BKGC, acc_BKGCH = carry
        page_BX = jax.lax.dynamic_slice_in_dim(table_BW, block * block_pages, block_pages, axis=1)
        key_position_XZ = block * block_tokens + jnp.arange(block_tokens).reshape(block_pages, size)
        seen_BCXZ, used_BXZ = _find_seen(key_position_XZ, position_BC, length_B, window)
        seen_B11CXZ = seen_BCXZ[:, None, None]

        # Scales multiply scores and weights, which are fewer than keys and values.
        scales = pages.read_scales(page_BX)
        key_scale_BXKZ, value_scale_BXKZ = (None, None) if scales is None else scales
        score_BKGCXZ = _score_keys(query_BKGCH, pages.read_keys(page_BX), key_scale_BXKZ, softcap, precision)
        score_BKGCXZ = jnp.where(seen_B11CXZ, score_BKGCXZ, MASKED_SCORE)
        new_max_BKGC = jnp.maximum(running_max_BKGC, score_BKGCXZ.max((-1, -2)))
        weight_BKGCXZ = jnp.where(seen_B11CXZ, jnp.exp(score_BKGCXZ - new_max_BKGC[..., None, None]), 0.0)
        mixed_BKGCH = _mix_values(weight_BKGCXZ, pages.read_values(page_BX), value_scale_BXKZ, used_BXZ, precision)
        rescale_BKGC = jnp.exp(running_max_BKGC - new_max_BKGC)
        return (
            new_max_BKGC,
            running_sum_BKGC * rescale_BKGC + weight_BKGCXZ.sum((-1, -2)),
            acc_BKGCH * rescale_BKGC[..., None] + mixed_BKGCH,
        )

    first, last = _find_live_blocks(position_BC, length_B, window, block_tokens)
    start = (
        jnp.full(query_BKGCH.shape[:-1], MASKED_SCORE, jnp.float32),
        jnp.zeros(query_BKGCH.shape[:-1], jnp.float32),
        jnp.zeros((*query_BKGCH.shape[:-1], pages.value_dim), jnp.float32),
    )
    running_max_BKGC, running_sum_BKGC, acc_BKGCH = jax.lax.fori_loop(first, last, add_block, start)
    if sinks is not None:
        running_sum_BKGC, acc_BKGCH = _add_sinks(sinks, running_max_BKGC, running_sum_BKGC, acc_BKGCH)
    out_BKGCH = acc_BKGCH / jnp.where(running_sum_BKGC == 0, 1.0, running_sum_BKGC)[..., None]
    num_heads = query_BKGCH.shape[1] * query_BKGCH.shape[2]
    return out_BKGCH.transpose(0, 3, 1, 2, 4).reshape(rows, -1, num_heads, pages.value_dim)


def _score_keys(
    query_BKGCH: Array,
    key_BXKHZ: Array,
    scale_BXKZ: Array | None,
    softcap: float | None,
    precision: jax.lax.Precision | None,
) -> Array:
    """Return the score of every key of a block for every query, float32 [B, K, G, C, X, Z]."""
    key_BXKHZ = key_BXKHZ.astype(jnp.float32)
    score_BKGCXZ = jnp.einsum("BKGCH,BXKHZ->BKGCXZ", query_BKGCH, key_BXKHZ, precision=precision)
    if scale_BXKZ is not None:
        score_BKGCXZ *= _align_scales(scale_BXKZ)
    return score_BKGCXZ if softcap is None else softcap * jnp.tanh(score_BKGCXZ / softcap)


def _mix_values(
    weight_BKGCXZ: Array,
    value_BXKZH: Array,
    scale_BXKZ: Array | None,
    used_BXZ: Array,
    precision: jax.lax.Precision | None,
) -> Array:
    """Return the weighted sum of a block's values for every query, float32 [B, K, G, C, H]."""
    # A slot that no query sees may hold anything, and zero times NaN is NaN: such values become zero.
    value_BXKZH = jnp.where(used_BXZ[:, :, None, :, None], value_BXKZH, 0).astype(jnp.float32)
    if scale_BXKZ is not None:
        weight_BKGCXZ *= _align_scales(jnp.where(used_BXZ[:, :, None], scale_BXKZ, 0))
    return jnp.einsum("BKGCXZ,BXKZH->BKGCH", weight_BKGCXZ, value_BXKZH, precision=precision)


def _find_seen(key_position_XZ: Array, position_BC: Array, length_B: Array, window: int | None) -> tuple[Array, Array]:
    """Return which slots of a block each query sees, [B, C, X, Z], and which any of a row may see, [B, X, Z]."""
    used_BXZ = key_position_XZ < length_B[:, None, None]
    seen_BCXZ = used_BXZ[:, None] & (key_position_XZ <= position_BC[..., None, None])
    if window is not None:
        seen_BCXZ &= key_position_XZ > position_BC[..., None, None] - window
        used_BXZ = seen_BCXZ.any(1)
    return seen_BCXZ, used_BXZ


def _find_live_blocks(
    position_BC: Array, length_B: Array, window: int | None, block_tokens: int
) -> tuple[Array, Array]:
    """Return the first block that any query sees, and the one behind the last."""
    first = jnp.int32(0)
    if window is not None:
        is_query_BC = (position_BC >= 0) & (length_B > 0)[:, None]
        nearest = jnp.where(is_query_BC, position_BC, jnp.iinfo(jnp.int32).max - window).min()
        first = jnp.maximum(0, nearest - window + 1) // block_tokens
    end = jnp.minimum(length_B, position_BC.max(-1) + 1).max()
    return first, (end + block_tokens - 1) // block_tokens


def _align_scales(scale_BXKZ: Array) -> Array:
    """Return the scales as scores have their axes, [B, K, 1, 1, X, Z]."""
    return scale_BXKZ.swapaxes(1, 2)[:, :, None, None]


def _add_sinks(
    sink_N: Array, running_max_BKGC: Array, running_sum_BKGC: Array, acc_BKGCH: Array
) -> tuple[Array, Array]:
    """Return the sum of weights and the weighted values with one more score for each head, which has no value."""
    sink_KG1 = sink_N.astype(jnp.float32).reshape(acc_BKGCH.shape[1], -1, 1)
    new_max_BKGC = jnp.maximum(running_max_BKGC, sink_KG1)
    rescale_BKGC = jnp.exp(running_max_BKGC - new_max_BKGC)
    sum_BKGC = running_sum_BKGC * rescale_BKGC + jnp.exp(sink_KG1 - new_max_BKGC)
    return sum_BKGC, acc_BKGCH * rescale_BKGC[..., None]
