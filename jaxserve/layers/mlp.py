"""The gated feed-forward block."""

from flax import nnx
from jax import Array, nn
from jax.typing import DTypeLike

from jaxserve.layers.linear import Linear


class GatedMLP(nnx.Module):
    """down(silu(gate(x)) * up(x)). Gate and up stay apart: fusing them gains nothing and costs a copy at load."""

    def __init__(self, width: int, hidden: int, *, bias: bool, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.gate = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.up = Linear(width, hidden, bias=bias, dtype=dtype, rngs=rngs)
        self.down = Linear(hidden, width, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_TD: Array) -> Array:
        return self.down(nn.silu(self.gate(x_TD)) * self.up(x_TD))
