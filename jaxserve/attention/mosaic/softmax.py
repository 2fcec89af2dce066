"""One block of keys and values added to the running softmax of a tile of queries, head by head."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.mosaic.fetch import HeadBlock
from jaxserve.attention.mosaic.pages import LANES, LOG2_E, MASKED_SCORE, MosaicParams
from jaxserve.layers.linear import matmul_precision

OVER_LAST = (((1,), (1,)), ((), ()))  # q . k
OVER_FIRST = (((1,), (0,)), ((), ()))  # weight . v


def state_shapes(kv_heads: int, queries: int, value_lanes: int) -> tuple[Any, ...]:
    """Return what the running softmax needs of vector memory."""
    return tuple(pltpu.VMEM((kv_heads, queries, size), jnp.float32) for size in (LANES, LANES, value_lanes))


@dataclass(frozen=True)
class Softmax:
    """References to the running softmax of M queries of each key head, in vector memory, float32.

    max_KML   in units of log 2, the same number in all lanes
    sum_KML   lane by lane: the sum over the lanes is the sum of the weights
    acc_KMV   the sum of the weighted values, V = value_lanes
    """

    max_KML: Any
    sum_KML: Any
    acc_KMV: Any

    def begin(self, head: Array | int, sinks_ref: Any) -> None:
        """Forget all keys of a head; sinks_ref, float32 [K, M, LANES] in units of log 2, has weight before any."""
        line, lane_ML = self.max_KML.shape[1:], jax.lax.broadcasted_iota(jnp.int32, self.sum_KML.shape[1:], 1)
        has_sinks = sinks_ref is not None
        self.max_KML[head] = sinks_ref[head] if has_sinks else jnp.full(line, MASKED_SCORE, jnp.float32)
        self.sum_KML[head] = (lane_ML == 0).astype(jnp.float32) if has_sinks else jnp.zeros(line, jnp.float32)
        self.acc_KMV[head] = jnp.zeros(self.acc_KMV.shape[1:], jnp.float32)

    def finish(self, head: Array | int, sinks_ref: Any) -> Array:
        """Return the answers of one head, float32 [M, V], zeros for queries that saw nothing, and begin anew."""
        total_M1 = jnp.sum(self.sum_KML[head], axis=1, keepdims=True)
        answer_MV = self.acc_KMV[head] / jnp.where(total_M1 == 0, 1.0, total_M1)
        self.begin(head, sinks_ref)
        return answer_MV


def add_head(
    state: Softmax,
    head: Array | int,
    query_ML: Array,
    block: HeadBlock,
    seen_MS: Array | None,
    params: MosaicParams,
) -> None:
    """Add a block of S keys to one head.

    seen_MS   bool, or [1, S]; None if every query sees every key
    """
    precision = matmul_precision(query_ML.dtype)
    score_MS = jax.lax.dot_general(
        query_ML, block.key_SL, OVER_LAST, precision=precision, preferred_element_type=jnp.float32
    )
    if block.key_scale_1S is not None:
        score_MS *= block.key_scale_1S
    score_MS *= params.scale
    if params.softcap is not None:
        score_MS = (params.softcap * LOG2_E) * jnp.tanh(score_MS)
    if seen_MS is not None:
        score_MS = jnp.where(seen_MS, score_MS, MASKED_SCORE)
    old_max_ML = state.max_KML[head]
    new_max_ML = jnp.maximum(old_max_ML, jnp.max(score_MS, axis=1, keepdims=True))
    rescale_ML = jnp.exp2(old_max_ML - new_max_ML)
    weight_MS = jnp.exp2(score_MS - _over_lanes(new_max_ML, score_MS.shape[1]))
    state.sum_KML[head] = state.sum_KML[head] * rescale_ML + _sum_tiles(weight_MS)
    if block.value_scale_1S is not None:
        weight_MS *= block.value_scale_1S
    weight_MS = weight_MS.astype(block.value_SV.dtype)
    add_MV = jax.lax.dot_general(
        weight_MS, block.value_SV, OVER_FIRST, precision=precision, preferred_element_type=jnp.float32
    )
    state.acc_KMV[head] = state.acc_KMV[head] * _over_lanes(rescale_ML, add_MV.shape[1]) + add_MV
    state.max_KML[head] = new_max_ML


def _over_lanes(same_ML: Array, size: int) -> Array:
    """Return numbers that are the same in all lanes, over more lanes or fewer."""
    if size < LANES:
        return same_ML[:, :size]
    return jnp.concatenate([same_ML] * (size // LANES), axis=1) if size > LANES else same_ML


def _sum_tiles(weight_MS: Array) -> Array:
    """Return the sum of the tiles of LANES lanes; of less than one, their sum in the first lane."""
    size = weight_MS.shape[1]
    if size < LANES:
        lane = jax.lax.broadcasted_iota(jnp.int32, (len(weight_MS), LANES), 1)
        return jnp.where(lane == 0, jnp.sum(weight_MS, axis=1, keepdims=True), 0.0)
    tiles = [weight_MS[:, start : start + LANES] for start in range(0, size, LANES)]
    return sum(tiles[1:], tiles[0])
