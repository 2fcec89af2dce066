"""Dense layers over pooled vectors: those of score heads, and those that sentence-transformers puts behind a model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxserve.layers.linear import Linear
from jaxserve.layers.mlp import ACTIVATIONS, Activation
from jaxserve.layers.norms import Norm, NormSpec

DenseActivation: TypeAlias = Activation | Literal["none", "tanh", "sigmoid"]
DENSE_ACTIVATIONS: Mapping[DenseActivation, Callable[[Array], Array]] = {
    **ACTIVATIONS,
    "none": lambda x: x,
    "tanh": jnp.tanh,
    "sigmoid": nnx.sigmoid,
}
MIN_LENGTH = 1e-12  # of a vector that is brought to length 1, as torch's normalize has it


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseSpec:
    """norm(activation(x @ kernel + bias)), in float32.

    width_in, width_out   numbers of x, and of what it becomes
    bias                  there is one
    activation            behind the product
    norm                  behind that; None: there is none
    normalizes_input      x is brought to length 1 first
    """

    width_in: int
    width_out: int
    bias: bool = True
    activation: DenseActivation = "none"
    norm: NormSpec | None = None
    normalizes_input: bool = False


class Dense(nnx.Module):
    """One dense layer. Pooled vectors are few, so all of it is float32 whatever the type of the model."""

    def __init__(self, spec: DenseSpec, *, rngs: nnx.Rngs) -> None:
        self.spec, dtype = spec, jnp.float32
        self.linear = Linear(spec.width_in, spec.width_out, bias=spec.bias, dtype=dtype, rngs=rngs)
        self.norm = None if spec.norm is None else Norm(spec.width_out, spec.norm, dtype=dtype)

    def __call__(self, x_BD: Array) -> Array:
        """Return float32 [B, width_out] of float32 [B, width_in]."""
        if self.spec.normalizes_input:
            x_BD = x_BD / jnp.maximum(jnp.linalg.norm(x_BD, axis=-1, keepdims=True), MIN_LENGTH)
        y_BD = DENSE_ACTIVATIONS[self.spec.activation](self.linear(x_BD))
        return y_BD if self.norm is None else self.norm(y_BD)


def make_dense(specs: tuple[DenseSpec, ...], *, rngs: nnx.Rngs) -> nnx.List:
    """Return the layers, each of which reads what the one before it gives."""
    return nnx.List([Dense(spec, rngs=rngs) for spec in specs])


def apply_dense(layers: nnx.List, x: Array) -> Array:
    """Return what the layers make of vectors [..., D], in float32."""
    x = x.astype(jnp.float32)
    if not layers:
        return x
    y_BD = x.reshape(-1, x.shape[-1])
    for layer in layers:
        y_BD = layer(y_BD)
    return y_BD.reshape(*x.shape[:-1], -1)
