"""The dense feed-forward block, gated or not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jax import Array, nn
from jax.typing import DTypeLike

from jaxserve.layers.linear import Linear, apply_linears
from jaxserve.parallel.ranks import ONE_RANK, Ranks

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


def _relu2(x: Array) -> Array:
    return jnp.square(nn.relu(x))


ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_tanh": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "relu2": _relu2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClampedSwiGLU:
    """gate * sigmoid(alpha * gate) * (up + 1); gate is at most limit, and up between -limit and limit (gpt-oss)."""

    alpha: float
    limit: float


def apply_gate(gate: Array, up: Array, activation: Activation | ClampedSwiGLU) -> Array:
    """Return the hidden numbers of a gated block, in the shape and type of gate and up."""
    if not isinstance(activation, ClampedSwiGLU):
        return ACTIVATIONS[activation](gate) * up
    gate, up = jnp.minimum(gate, activation.limit), jnp.clip(up, -activation.limit, activation.limit)
    return gate * nn.sigmoid(activation.alpha * gate) * (up + 1)


class MLP(nnx.Module):
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))) without a gate.

    Gate and up stay apart: fusing them gains nothing and costs a copy at load.
    ranks: each has some of the hidden numbers.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: Activation,
        is_gated: bool,
        bias: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        ranks: Ranks = ONE_RANK,
    ) -> None:
        self.activation: Activation = activation
        self.gate = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs) if is_gated else None
        self.up = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, bias=bias, dtype=dtype, rngs=rngs, ranks=ranks)

    def __call__(self, x_TD: Array) -> Array:
        """Return the block's output [T, D] for x_TD, in x's type."""
        if self.gate is None:
            return self.down(ACTIVATIONS[self.activation](self.up(x_TD)))
        gate_TF, up_TF = apply_linears(x_TD, self.gate, self.up)
        return self.down(apply_gate(gate_TF, up_TF, self.activation))
