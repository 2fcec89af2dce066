"""Modules of a block's projections, norms and arrays, made of what its spec says of them."""

from collections.abc import Iterable

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.layers.linear import Linear
from jaxserve.layers.norms import Norm, NormSpec
from jaxserve.models.attention_spec import OwnArray, OwnNorm, Projection
from jaxserve.parallel.ranks import ONE_RANK, Ranks


def make_linears(
    projections: Iterable[Projection], summed: str, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks
) -> dict[str, Linear]:
    """Return the layers of projections by name. summed: that whose inputs are split among the ranks."""
    return {
        each.name: Linear(
            each.width_in,
            each.width_out,
            bias=each.bias,
            dtype=dtype,
            rngs=rngs,
            ranks=ranks if each.name == summed else ONE_RANK,
        )
        for each in projections
    }


def make_norms(norms: Iterable[OwnNorm], usual: NormSpec, *, dtype: DTypeLike, ranks: Ranks) -> dict[str, Norm]:
    """Return norms inside of a block by name. usual: the kind of those that name none."""
    return {
        each.name: Norm(
            each.width,
            each.norm or usual,
            dtype=dtype,
            ranks=ranks if each.is_divided else ONE_RANK,
            num_heads=each.num_heads,
        )
        for each in norms
    }


def make_arrays(arrays: Iterable[OwnArray], dtype: DTypeLike) -> dict[str, nnx.Param[Array]]:
    """Return the weights of a block that are neither projections nor norms, by name."""
    return {array.name: nnx.Param(jnp.zeros(array.shape, dtype)) for array in arrays}
