"""How a model's weights are passed to its programs: matrices as they are, vectors in one array.

Every argument costs the host about 1.3 us a call where its caches are cold (two cores of an AMD EPYC, jax 0.10.2), and
a norm's scale is as much an argument as a matrix. Matrices stay apart, because XLA for CPU would copy a slice of
several that are stacked.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxserve.layers.param_spec import ParamPath
from jaxserve.layers.quant import PackedWeight
from jaxserve.layers.scaled_weight import ScaledWeight


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """The arguments that hold a model's weights.

    paths     The weights that are arguments of their own, in their order.
    vectors   The path and length of the vectors that the argument behind them holds, one behind the other; there is no
              such argument if there are no vectors. They have one dtype, that of most, and every device has them whole.
    """

    paths: tuple[ParamPath, ...]
    vectors: tuple[tuple[ParamPath, int], ...]

    @classmethod
    def from_shapes(cls, shapes: Mapping[ParamPath, Any]) -> "WeightLayout":
        """Return the layout for weights of these shapes."""
        vectors = {path: leaf for path, leaf in shapes.items() if _is_vector(leaf)}
        [(dtype, _)] = Counter(leaf.dtype for leaf in vectors.values()).most_common(1) or [(None, 0)]
        vectors = {path: leaf for path, leaf in vectors.items() if leaf.dtype == dtype}
        return cls(
            tuple(path for path in shapes if path not in vectors),
            tuple((path, leaf.shape[0]) for path, leaf in vectors.items()),
        )

    def pack_shapes(self, shapes: Mapping[ParamPath, Any]) -> tuple[Any, ...]:
        """Return the shapes of the arguments."""
        arguments = tuple(shapes[path] for path in self.paths)
        if not self.vectors:
            return arguments
        first = shapes[self.vectors[0][0]]
        size = sum(length for _, length in self.vectors)
        return *arguments, jax.ShapeDtypeStruct((size,), first.dtype, sharding=first.sharding)

    def pack(self, weights: Mapping[ParamPath, Array | PackedWeight | ScaledWeight]) -> tuple[Any, ...]:
        """Return the arguments. Vectors are copied by the host, since a program for it would have to be compiled."""
        arguments = tuple(weights[path] for path in self.paths)
        if not self.vectors:
            return arguments
        vectors: list[Any] = [weights[path] for path, _ in self.vectors]
        return *arguments, jax.device_put(np.concatenate([np.asarray(each) for each in vectors]), vectors[0].sharding)

    def unpack(self, arguments: Sequence[Any]) -> dict[ParamPath, Any]:
        """Return the weights by path, for use inside a program; outside, vectors would be copied."""
        weights = dict(zip(self.paths, arguments, strict=False))
        if not self.vectors:
            return weights
        packed, ends = arguments[-1], accumulate(length for _, length in self.vectors)
        return weights | {
            path: packed[end - length : end] for (path, length), end in zip(self.vectors, ends, strict=True)
        }


def _is_vector(leaf: Any) -> bool:
    if isinstance(leaf, PackedWeight) or len(leaf.shape) != 1:
        return False
    return leaf.sharding is None or leaf.sharding.is_fully_replicated
