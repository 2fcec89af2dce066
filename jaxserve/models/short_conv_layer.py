"""The block of a short convolution with two gates."""

from typing import Any

from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.linear import Linear, apply_linears
from jaxserve.models.attention_layer import Rotation
from jaxserve.models.block_parts import make_arrays, make_linears
from jaxserve.models.recurrent_rows import convolve_rows, read_states, write_states
from jaxserve.models.short_conv_spec import ShortConvSpec
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import Ranks


class ShortConvLayer(nnx.Module):
    """The short convolution of one layer. ranks: each has some of its channels."""

    conv_before: Linear
    conv_after: Linear
    conv_value: Linear
    conv_output: Linear

    def __init__(
        self, spec: DecoderSpec, conv: ShortConvSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks
    ) -> None:
        linears = make_linears(conv.projections(spec.width), "conv_output", dtype=dtype, rngs=rngs, ranks=ranks)
        for name, linear in linears.items():
            setattr(self, name, linear)
        arrays = make_arrays(conv.arrays(), dtype)
        self.conv_kernel, self.conv_bias = arrays["conv_kernel"], arrays.get("conv_bias")

    def __call__(
        self, x_TD: Array, rotation: Rotation, inputs: AttentionInputs, pages: tuple[Array], backend: Any
    ) -> tuple[Array, tuple[Array]]:
        """Return the block's output [T, D] and the states of all slots with those of the rows behind this step.

        pages   The last tokens [S, L - 1, channels] of the convolution, of all slots.
        """
        before_TC, after_TC, value_TC = apply_linears(x_TD, self.conv_before, self.conv_after, self.conv_value)
        bias_C = None if self.conv_bias is None else self.conv_bias[...]
        state_BLC = read_states(pages[0], inputs)
        y_TC, state_BLC = convolve_rows(before_TC * value_TC, self.conv_kernel[...][:, 0], state_BLC, inputs, bias_C)
        return self.conv_output(after_TC * y_TC), (write_states(pages[0], state_BLC, inputs),)
