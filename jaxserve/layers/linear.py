"""Linear layers: the product by einsum, of a packed weight by quant.py or scaled_weight.py; adapters by adapted.py."""

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jaxserve.layers import quant
from jaxserve.layers.adapted import AdaptedKernel
from jaxserve.layers.scaled_weight import ScaledWeight, scaled_matmuls
from jaxserve.parallel.ranks import ONE_RANK, Ranks


def matmul_precision(dtype: DTypeLike) -> lax.Precision | None:
    """Return the precision that keeps a float32 product float32.

    By default GPUs round float32 operands to TF32 and TPUs to bfloat16. CPUs ignore it, and for narrower types the
    default is already right.
    """
    return lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def multiply(x_TI: Array, *kernels: Array | quant.PackedWeight | ScaledWeight) -> tuple[Array, ...]:
    """Return x @ kernel [T, out] in x's type for each of the kernels; those that are packed alike share one call."""
    packed = [kernel for kernel in kernels if isinstance(kernel, quant.PackedWeight)]
    if len(packed) == len(kernels):
        return quant.packed_matmul(x_TI, *packed)
    products = iter(scaled_matmuls(x_TI, *(kernel for kernel in kernels if isinstance(kernel, ScaledWeight))))
    return tuple(
        next(products)
        if isinstance(kernel, ScaledWeight)
        else jnp.einsum("ti,io->to", x_TI, kernel, precision=matmul_precision(x_TI.dtype))
        for kernel in kernels
    )


class Linear(nnx.Module):
    """y = x @ kernel (+ bias), the kernel laid out [in, out].

    Two-dimensional, heads folded into `out`: the form for which XLA finds a plain matrix product everywhere.
    ranks: each has some of the inputs and the same rows of the kernel, so products are summed over them.
    """

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        bias: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.ranks = ranks
        self.kernel = nnx.Param(0.02 * rngs.params.normal((width_in, width_out), dtype))
        self.bias = nnx.Param(jnp.zeros((width_out,), dtype)) if bias else None

    def __call__(self, x: Array) -> Array:
        """Return [T, out] in x's type for x [T, in]."""
        return apply_linears(x, self)[0]


def apply_linears(x: Array, *layers: Linear) -> tuple[Array, ...]:
    """Return the output of each layer for the same x. Packed layers share one call."""
    values = [layer.kernel.get_value() for layer in layers]
    products = multiply(x, *(value.kernel if isinstance(value, AdaptedKernel) else value for value in values))
    products = [
        y + value.compute_change(x, matmul_precision(x.dtype)) if isinstance(value, AdaptedKernel) else y
        for y, value in zip(products, values, strict=True)
    ]
    sums = [layer.ranks.sum(y) for layer, y in zip(layers, products, strict=True)]
    biases = [layer.bias for layer in layers]
    return tuple(y if bias is None else y + bias[...] for y, bias in zip(sums, biases, strict=True))


def apply_multiplier(x: Array, multiplier: float) -> Array:
    """Return x times a constant; without any product for 1.0."""
    return x if multiplier == 1.0 else x * multiplier
