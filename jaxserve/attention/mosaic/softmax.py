"""One block of keys and values added to the running softmax of a tile of queries, head by head."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.mosaic.fetch import HeadBlock
from jaxserve.attention.mosaic.pages import LANES, LOG2_E, MASKED_SCORE, MosaicParams
from jaxserve.layers.linear import matmul_precision

ALL_ROWS = slice(None)
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

    def load(self, head: Array | int, rows: Any = ALL_ROWS) -> "Sums":
        """Return what a head has summed up."""
        return Sums(self.max_KML[head, rows], self.sum_KML[head, rows], self.acc_KMV[head, rows])

    def store(self, head: Array | int, sums: "Sums", rows: Any = ALL_ROWS) -> None:
        """Keep what a head has summed up."""
        self.max_KML[head, rows], self.sum_KML[head, rows], self.acc_KMV[head, rows] = sums


class Sums(NamedTuple):
    """The running softmax of one head over some keys, as values; see `Softmax`."""

    max_ML: Array
    sum_ML: Array
    acc_MV: Array


def score_head(query_ML: Array, block: HeadBlock, params: MosaicParams) -> Array:
    """Return the scores of one head's queries with a block of S keys, float32 [M, S], in units of log 2, not masked.

    Of joined heads, M are the queries of one head behind those of the other.
    """
    score_MS = jax.lax.dot_general(
        _spread(query_ML, params.joined_heads),
        block.key_SL,
        OVER_LAST,
        precision=matmul_precision(query_ML.dtype),
        preferred_element_type=jnp.float32,
    )
    score_MS = _multiply(score_MS, block.key_scales)
    score_MS *= params.scale
    return score_MS if params.softcap is None else (params.softcap * LOG2_E) * jnp.tanh(score_MS)


def begin_if(is_first: Array, sums: Sums, head: Array | int, sinks_ref: Any, rows: Any = ALL_ROWS) -> Sums:
    """Return sums, or, if `is_first`, a bool scalar, what there is before any key.

    sinks_ref   float32 [K, M, LANES] in units of log 2, which have weight before any key; None for none
    """
    max_ML, sum_ML = jnp.full_like(sums.max_ML, MASKED_SCORE), jnp.zeros_like(sums.sum_ML)
    if sinks_ref is not None:
        lane_ML = jax.lax.broadcasted_iota(jnp.int32, sum_ML.shape, 1)
        max_ML, sum_ML = sinks_ref[head, rows], (lane_ML == 0).astype(jnp.float32)
    first = Sums(max_ML, sum_ML, jnp.zeros_like(sums.acc_MV))
    return Sums(*(jax.lax.select(is_first, new, old) for new, old in zip(first, sums, strict=True)))


def add_scores(sums: Sums, score_MS: Array, block: HeadBlock) -> Sums:
    """Return the sums with those of a block whose scores are known."""
    new_max_ML = jnp.maximum(sums.max_ML, jnp.max(score_MS, axis=1, keepdims=True))
    rescale_ML = jnp.exp2(sums.max_ML - new_max_ML)
    weight_MS = jnp.exp2(score_MS - _over_lanes(new_max_ML, score_MS.shape[1]))
    sum_ML = sums.sum_ML * rescale_ML + _sum_tiles(weight_MS)
    add_MV = _weigh_values(weight_MS, block)
    return Sums(new_max_ML, sum_ML, sums.acc_MV * _over_lanes(rescale_ML, add_MV.shape[1]) + add_MV)


def sum_scores(score_MS: Array, block: HeadBlock, params: MosaicParams) -> Sums:
    """Return the sums of a block alone, which wait for no others. Those of one that no query sees are nonsense, which
    `merge` forgets.
    """
    max_ML = jnp.broadcast_to(jnp.max(score_MS, axis=1, keepdims=True), (len(score_MS), LANES))
    weight_MS = jnp.exp2(score_MS - _over_lanes(max_ML, score_MS.shape[1]))
    return Sums(max_ML, _sum_tiles(weight_MS), _weigh_values(weight_MS, block, params.joined_heads))


def merge(sums: Sums, other: Sums) -> Sums:
    """Return the sums over both."""
    max_ML = jnp.maximum(sums.max_ML, other.max_ML)
    rescale_ML, other_rescale_ML = jnp.exp2(sums.max_ML - max_ML), jnp.exp2(other.max_ML - max_ML)
    size = sums.acc_MV.shape[1]
    return Sums(
        max_ML,
        sums.sum_ML * rescale_ML + other.sum_ML * other_rescale_ML,
        sums.acc_MV * _over_lanes(rescale_ML, size) + other.acc_MV * _over_lanes(other_rescale_ML, size),
    )


def finish(sums: Sums) -> Array:
    """Return the answers, float32 [M, V], zeros for queries that saw nothing."""
    total_M1 = jnp.sum(sums.sum_ML, axis=1, keepdims=True)
    return sums.acc_MV / jnp.where(total_M1 == 0, 1.0, total_M1)


def _weigh_values(weight_MS: Array, block: HeadBlock, joined_heads: int = 1) -> Array:
    weighted_MV = jax.lax.dot_general(
        _multiply(weight_MS, block.value_scales).astype(block.value_SV.dtype),
        block.value_SV,
        OVER_FIRST,
        precision=matmul_precision(block.value_SV.dtype),
        preferred_element_type=jnp.float32,
    )
    if joined_heads == 1:
        return weighted_MV
    parts = jnp.split(weighted_MV, joined_heads, axis=1)
    return _choose_by_head(parts)


def _spread(query_ML: Array, joined_heads: int) -> Array:
    """Return the queries of joined heads, each in the lanes of its head's keys, with zeros in those of the others."""
    if joined_heads == 1:
        return query_ML
    wide_ML = query_ML.astype(jnp.float32)  # in which all TPUs choose
    zero_ML, own = jnp.zeros_like(wide_ML), range(joined_heads)
    parts = [_choose_by_head([wide_ML if head == part else zero_ML for head in own]) for part in own]
    return jnp.concatenate(parts, axis=1).astype(query_ML.dtype)


def _multiply(array_MS: Array, scales: tuple[Array, ...]) -> Array:
    """Return numbers of joined heads multiplied by the scales of their heads, [1, S] each, if there are any."""
    if not scales:
        return array_MS
    if len(scales) == 1:
        return array_MS * scales[0]
    return array_MS * _choose_by_head([jnp.broadcast_to(scale_1S, array_MS.shape) for scale_1S in scales])


def _choose_by_head(arrays: list[Array]) -> Array:
    """Return an array whose rows are those of the first array for the first head, and so on; all are [M, ...]."""
    per_head = len(arrays[0]) // len(arrays)
    row = jax.lax.broadcasted_iota(jnp.int32, arrays[0].shape, 0)
    chosen = arrays[-1]
    for head in reversed(range(len(arrays) - 1)):
        chosen = jnp.where(row < (head + 1) * per_head, arrays[head], chosen)
    return chosen


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
