"""Root-mean-square norm."""

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, computed in float32 whatever the type of x.

    The product with the scale happens after the cast back, as the checkpoints of the Llama family were trained.
    """

    def __init__(self, width: int, *, eps: float, dtype: DTypeLike) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((width,), dtype))

    def __call__(self, x: Array) -> Array:
        """x [..., width] → the same shape and type."""
        wide = x.astype(jnp.float32)
        variance = jnp.mean(wide * wide, axis=-1, keepdims=True)
        return (wide * lax.rsqrt(variance + self.eps)).astype(x.dtype) * self.scale[...]
