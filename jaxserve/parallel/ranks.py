"""Ranks: the devices of a replica as code inside of shard_map sees them, and reductions over them."""

from dataclasses import dataclass

import jax
from jax import Array, lax

from jaxserve.parallel.mesh import TENSOR_AXIS


@dataclass(frozen=True, slots=True)
class Ranks:
    """The ranks that hold the arrays of a replica together.

    With one rank every method returns what it is given and leaves no trace in the program.

    size             The number of ranks.
    splits_experts   Each rank holds some whole experts, instead of a part of every expert.
    """

    size: int = 1
    splits_experts: bool = False

    @property
    def index(self) -> Array:
        """The index of the rank that runs this code, int32."""
        return lax.axis_index(TENSOR_AXIS)

    def sum(self, x: Array) -> Array:
        """Return the sum of all ranks' arrays."""
        return x if self.size == 1 else lax.psum(x, TENSOR_AXIS)

    def max(self, x: Array) -> Array:
        """Return the greatest value of all ranks, element by element."""
        return x if self.size == 1 else lax.pmax(x, TENSOR_AXIS)

    def min(self, x: Array) -> Array:
        """Return the least value of all ranks, element by element."""
        return x if self.size == 1 else lax.pmin(x, TENSOR_AXIS)

    def concatenate(self, x_BK: Array) -> Array:
        """Return the columns of all ranks in their order, [B, size * K]."""
        return x_BK if self.size == 1 else lax.all_gather(x_BK, TENSOR_AXIS, axis=1, tiled=True)

    def offset(self, num: int) -> Array | int:
        """Return the index of this rank's first item, where every rank has `num` items."""
        return 0 if self.size == 1 else self.index * num

    def take(self, values_BV: Array, index_BI: Array) -> Array:
        """Return some values of each row by their indices in the whole row, of which a rank has the columns [B, V].

        One value is read on the rank that has it; the other ranks add zeros.
        """
        if self.size == 1:
            return jax.numpy.take_along_axis(values_BV, index_BI, axis=-1)
        num = values_BV.shape[1]
        local_BI = index_BI - self.offset(num)
        is_here_BI = (local_BI >= 0) & (local_BI < num)
        value_BI = jax.numpy.take_along_axis(values_BV, jax.numpy.clip(local_BI, 0, num - 1), axis=-1)
        return self.sum(jax.numpy.where(is_here_BI, value_BI, 0))


ONE_RANK = Ranks()
