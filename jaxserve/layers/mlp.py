"""The gated feed-forward block."""

from flax import nnx
from jax import Array, nn
from jax.typing import DTypeLike

from jaxserve.layers.linear import Linear, apply_linears


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)). Gate and up stay apart: fusing them gains nothing and costs a copy at load."""

    def __init__(self, width: int, hidden: int, *, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.gate = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.up = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_TD: Array) -> Array:
        gate_TF, up_TF = apply_linears(x_TD, self.gate, self.up)
        return self.down(nn.silu(gate_TF) * up_TF)
