"""Attention of whole sequences, in which every token sees all others, or those of its window on both sides.

Nothing is kept in pages: keys and values are those of the same call. Sequences lie in rows of equal length, and what
is padding at the end of a row no token sees.
"""

from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.attention.reference import MASKED_SCORE
from jaxserve.layers.linear import matmul_precision

BLOCK_QUERIES = 512  # whose scores are in memory at the same time: of 12 heads and 8,192 keys, 192 MiB in float32
MIN_BLOCK_QUERIES = 128  # of layers with a window, whose blocks see few keys

KeysValues: TypeAlias = tuple[Array, Array]


@dataclass(frozen=True, slots=True)
class WholeSequences:
    """The part of an attention backend that a decoder calls for layers of softmax attention.

    length   The tokens of a row, padding included.
    """

    length: int

    def make_inputs(self, length_B: Array) -> AttentionInputs:
        """Return what attention takes besides queries, keys and values: `length` tokens of each row."""
        rows = len(length_B)
        return AttentionInputs(
            position_T=jnp.tile(jnp.arange(self.length, dtype=jnp.int32), rows),
            slot_T=jnp.zeros(rows * self.length, jnp.int32),
            page_table_BW=jnp.zeros((rows, 0), jnp.int32),
            length_B=length_B,
            query_start_B1=jnp.arange(rows + 1, dtype=jnp.int32) * self.length,
            max_queries_per_row=self.length,
        )

    def write(self, pages: None, key_TKH: Array, value_TKH: Array, slot_T: Array) -> KeysValues:
        """Return keys and values, which are those that `attend` reads."""
        return key_TKH, value_TKH

    def attend(
        self,
        query_TNH: Array,
        pages: KeysValues,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, H]; see `attend_whole`."""
        rows = len(inputs.length_B)
        query_BSNH, key_BSKH, value_BSKH = (
            each.reshape(rows, self.length, *each.shape[1:]) for each in (query_TNH, *pages)
        )
        mixed_BSNH = attend_whole(
            query_BSNH,
            key_BSKH,
            value_BSKH,
            inputs.length_B,
            scale=scale,
            window=window,
            softcap=softcap,
            sinks=sinks,
        )
        return mixed_BSNH.reshape(query_TNH.shape)


def attend_whole(
    query_BSNH: Array,
    key_BSKH: Array,
    value_BSKH: Array,
    length_B: Array,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Return softmax(scale * q.k) . v of every query, [B, S, N, H] in the query's type.

    length_B   the tokens of each row that are no padding
    window     a query sees itself, and the window - 1 tokens before and behind it; None: all of its row
    softcap    scores are cap * tanh(score / cap) before the softmax
    sinks      [N], one more score for each head, neither scaled nor capped: it takes weight and brings no value
    """
    rows, length, heads, dim = query_BSNH.shape
    size = BLOCK_QUERIES if window is None else max(MIN_BLOCK_QUERIES, 1 << (window - 1).bit_length())
    size = min(size, length)
    num_keys = length if window is None else min(length, size + 2 * (window - 1))
    num_blocks = -(-length // size)
    padded_BSNH = jnp.pad(query_BSNH, ((0, 0), (0, num_blocks * size - length), (0, 0), (0, 0)))

    def attend_block(start: Array | int) -> Array:
        first_key = 0 if window is None else jnp.clip(jnp.asarray(start) - (window - 1), 0, length - num_keys)
        query_BCNH = jax.lax.dynamic_slice_in_dim(padded_BSNH, start, size, 1)
        key_BXKH, value_BXKH = (
            each if num_keys == length else jax.lax.dynamic_slice_in_dim(each, first_key, num_keys, 1)
            for each in (key_BSKH, value_BSKH)
        )
        position_X, position_C = first_key + jnp.arange(num_keys), start + jnp.arange(size)
        is_seen_BCX = (position_X < length_B[:, None])[:, None]
        if window is not None:
            is_seen_BCX &= jnp.abs(position_X - position_C[:, None]) < window
        return _attend(query_BCNH, key_BXKH, value_BXKH, is_seen_BCX, scale, softcap, sinks)

    if num_blocks == 1:
        return attend_block(0)
    mixed_IBCNH = jax.lax.map(attend_block, jnp.arange(num_blocks, dtype=jnp.int32) * size)
    return mixed_IBCNH.swapaxes(0, 1).reshape(rows, -1, heads, dim)[:, :length]


def _attend(
    query_BCNH: Array,
    key_BXKH: Array,
    value_BXKH: Array,
    is_seen_BCX: Array,
    scale: float,
    softcap: float | None,
    sinks: Array | None,
) -> Array:
    """Return what queries mix of the keys that they see; is_seen_BCX may be the same for all queries, [B, 1, X]."""
    rows, num_queries, _, dim = query_BCNH.shape
    kv_heads, precision = key_BXKH.shape[2], matmul_precision(query_BCNH.dtype)
    query_BCKGH = query_BCNH.reshape(rows, num_queries, kv_heads, -1, dim)
    score_BKGCX = scale * jnp.einsum(
        "bckgh,bxkh->bkgcx", query_BCKGH, key_BXKH, precision=precision, preferred_element_type=jnp.float32
    )
    if softcap is not None:
        score_BKGCX = softcap * jnp.tanh(score_BKGCX / softcap)
    score_BKGCX = jnp.where(is_seen_BCX[:, None, None], score_BKGCX, MASKED_SCORE)
    if sinks is not None:
        sink_KG11 = sinks.astype(jnp.float32).reshape(kv_heads, -1, 1, 1)
        sink_BKGC1 = jnp.broadcast_to(sink_KG11, (*score_BKGCX.shape[:-1], 1))
        score_BKGCX = jnp.concatenate([score_BKGCX, sink_BKGC1], axis=-1)
    weight_BKGCX = jax.nn.softmax(score_BKGCX, axis=-1).astype(query_BCNH.dtype)
    if sinks is not None:
        weight_BKGCX = weight_BKGCX[..., :-1]
    mixed_BCKGH = jnp.einsum("bkgcx,bxkh->bckgh", weight_BKGCX, value_BXKH, precision=precision)
    return mixed_BCKGH.reshape(query_BCNH.shape)
