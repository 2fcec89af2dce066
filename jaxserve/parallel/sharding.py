"""The table of sharding rules: which logical axes of weights are split among the ranks, and the specs of other arrays.

Programs of several devices run under shard_map: their collectives are those that the code names, and kernels see the
heads of their own rank. Pages are stacked along their first axis, whatever their layout is: rank r has the r-th block,
with its own heads.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
from jax.sharding import PartitionSpec

from jaxserve.parallel.mesh import TENSOR_AXIS

Axis: TypeAlias = Literal["vocab", "width", "heads", "kv_heads", "mlp", "experts"]
"""Logical axes of weights."""

RULES: Mapping[Axis, str | None] = {
    "vocab": TENSOR_AXIS,
    "heads": TENSOR_AXIS,
    "kv_heads": TENSOR_AXIS,
    "mlp": TENSOR_AXIS,
    "experts": None,
    "width": None,
}
EXPERT_RULES: Mapping[Axis, str | None] = {**RULES, "experts": TENSOR_AXIS}  # under expert parallelism

WHOLE = PartitionSpec()  # every rank has the same array
STACKED = PartitionSpec(TENSOR_AXIS)  # rank r has the r-th block along the first axis
BY_VOCAB = PartitionSpec(None, TENSOR_AXIS)  # a matrix of rows and token ids


MASK_BITS = 32  # token ids that one word of a mask holds


def pad_vocab(vocab_size: int, num_ranks: int) -> int:
    """Return the vocabulary's size with what is filled up so that ranks have equal parts, of whole words of a mask."""
    part = MASK_BITS * num_ranks
    return vocab_size if num_ranks == 1 else -(-vocab_size // part) * part


def split_specs(arrays: Any) -> Any:
    """Return the specs of a tree of arrays, or of their shapes, that lie on a mesh; WHOLE for those that do not."""
    return jax.tree.map(lambda leaf: getattr(leaf.sharding, "spec", WHOLE), arrays)


def shard_bytes(array: Any) -> int:
    """Return the bytes of an array, or of its shape, that each device has."""
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize


def split_axes(axes: Sequence[Axis | None], rules: Mapping[Axis, str | None]) -> PartitionSpec:
    """Return how an array with these logical axes is split: along the first axis that the rules map to a mesh axis."""
    mapped = [None if axis is None else rules[axis] for axis in axes]
    first = next((index for index, name in enumerate(mapped) if name is not None), None)
    return PartitionSpec(*(name if index == first else None for index, name in enumerate(mapped)))
