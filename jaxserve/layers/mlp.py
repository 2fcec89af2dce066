"""The dense feed-forward block, gated or not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jax import Array, nn
from jax.typing import DTypeLike

from jaxserve.layers.linear import Linear, apply_linears, apply_multiplier
from jaxserve.parallel.ranks import ONE_RANK, Ranks

Activation: TypeAlias = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
MLPActivation: TypeAlias = Activation | Literal["xielu"]
"""Those of a dense block: xIELU has weights of its own, which experts have no place for."""


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


class XIELU(nnx.Module):
    """xIELU (arXiv 2411.13010): a parabola above zero, an exponential below, with learned curvatures.

    alphas      the curvatures above and below zero, before softplus, [2, 1]
    constants   beta, the slope at zero, and eps, above which no exponential is taken, [2]
    """

    def __init__(self, dtype: DTypeLike) -> None:
        self.alphas = nnx.Param(jnp.zeros((2, 1), dtype))
        self.constants = nnx.Param(jnp.zeros((2,), dtype))

    def __call__(self, x: Array) -> Array:
        """Return the activated x, in its shape and type, computed in float32."""
        wide = x.astype(jnp.float32)
        above, below = nn.softplus(self.alphas[...].astype(jnp.float32))
        beta, eps = self.constants[...].astype(jnp.float32)
        curved = jnp.where(wide > 0, above * wide * wide, (jnp.expm1(jnp.minimum(wide, eps)) - wide) * (below + beta))
        return (curved + beta * wide).astype(x.dtype)


class MLP(nnx.Module):
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))) without a gate.

    Gate and up stay apart: fusing them gains nothing and costs a copy at load. gate(x) and the output are multiplied
    by their multipliers.
    ranks: each has some of the hidden numbers.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: MLPActivation,
        is_gated: bool,
        bias: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        ranks: Ranks = ONE_RANK,
        gate_multiplier: float = 1.0,
        output_multiplier: float = 1.0,
    ) -> None:
        self.activation: MLPActivation = activation
        self.gate_multiplier, self.output_multiplier = gate_multiplier, output_multiplier
        self.xielu = XIELU(dtype) if activation == "xielu" else None
        self.gate = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs) if is_gated else None
        self.up = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, bias=bias, dtype=dtype, rngs=rngs, ranks=ranks)

    def __call__(self, x_TD: Array) -> Array:
        """Return the block's output [T, D] for x_TD, in x's type."""
        if self.gate is None:
            return apply_multiplier(self.down(self._activate(self.up(x_TD))), self.output_multiplier)
        gate_TF, up_TF = apply_linears(x_TD, self.gate, self.up)
        gate_TF = apply_multiplier(gate_TF, self.gate_multiplier)
        return apply_multiplier(self.down(self._activate(gate_TF) * up_TF), self.output_multiplier)

    def _activate(self, x_TF: Array) -> Array:
        if self.xielu is not None:
            return self.xielu(x_TF)
        assert self.activation != "xielu"
        return ACTIVATIONS[self.activation](x_TF)
