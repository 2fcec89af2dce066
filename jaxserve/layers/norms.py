"""Norms over the last axis, computed in float32 whatever the type of the input."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jaxserve.parallel.ranks import ONE_RANK, Ranks

NormKind: TypeAlias = Literal["rms", "rms_wide", "rms_plus_one", "layer", "layer_plus_one"]


@dataclass(frozen=True, slots=True)
class NormSpec:
    """The kind of a norm and its epsilon.

    rms            x / rms(x), cast to x's type, times the scale, as the Llama family was trained
    rms_wide       the same, cast after the scale (OLMo 2)
    rms_plus_one   x / rms(x) times 1 + scale, cast after that (Gemma)
    layer          (x - mean) / deviation times the scale, plus the bias where there is one
    layer_plus_one   the same times 1 + scale (Nemotron)
    has_scale      False: no learned numbers (OLMo 1)

    Raises ValueError for a bias of a norm that is not centered.
    """

    eps: float
    kind: NormKind = "rms"
    has_bias: bool = False
    has_scale: bool = True

    def __post_init__(self) -> None:
        if self.has_bias and not self.is_centered:
            raise ValueError(f"has_bias is True with kind {self.kind!r}; only 'layer' and 'layer_plus_one' have one.")

    @property
    def is_centered(self) -> bool:
        """Whether the mean is taken away first."""
        return self.kind in ("layer", "layer_plus_one")

    @property
    def adds_one(self) -> bool:
        """Whether the factor is 1 + scale."""
        return self.kind in ("rms_plus_one", "layer_plus_one")


class Norm(nnx.Module):
    """A norm over the last axis. ranks: each has some of its numbers, all equally many.

    num_heads   so many heads, the last axis but one, have numbers of their own; None: there is one row of them
    """

    def __init__(
        self,
        width: int,
        spec: NormSpec,
        *,
        dtype: DTypeLike,
        ranks: Ranks = ONE_RANK,
        num_heads: int | None = None,
    ) -> None:
        self.spec, self.ranks = spec, ranks
        shape = (width,) if num_heads is None else (num_heads, width)
        self.scale = nnx.Param(jnp.ones(shape, dtype)) if spec.has_scale else None
        self.bias = nnx.Param(jnp.zeros(shape, dtype)) if spec.has_bias else None

    def __call__(self, x: Array) -> Array:
        """Return the normed x [..., width], in its shape and type."""
        wide = x.astype(jnp.float32)
        if self.spec.is_centered:
            wide = wide - self._mean(wide)
        variance = self._mean(wide * wide)
        normed = wide * lax.rsqrt(variance + self.spec.eps)
        if self.spec.kind == "rms":
            return normed.astype(x.dtype) if self.scale is None else normed.astype(x.dtype) * self.scale[...]
        if self.scale is not None:
            scale = self.scale[...].astype(jnp.float32)
            normed = normed * (1 + scale if self.spec.adds_one else scale)
        if self.bias is not None:
            normed = normed + self.bias[...].astype(jnp.float32)
        return normed.astype(x.dtype)

    def _mean(self, x: Array) -> Array:
        mean = jnp.mean(x, axis=-1, keepdims=True)
        return mean if self.ranks.size == 1 else self.ranks.sum(mean) / self.ranks.size


def apply_norm(norm: Norm | None, x: Array) -> Array:
    """Return the normed x, or x itself where there is no norm."""
    return x if norm is None else norm(x)
