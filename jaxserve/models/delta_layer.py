"""The block of the gated delta rule: projections, convolution, the rule, and a norm with a gate."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.delta_rule import delta_rule, delta_rule_step, log_decay, unit_length
from jaxserve.layers.linear import Linear, apply_linears
from jaxserve.models.attention_layer import Rotation
from jaxserve.models.block_parts import make_arrays, make_linears
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.recurrent_rows import convolve_rows, cut_rows, read_states, write_states
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import Ranks

States = tuple[Array, Array]
"""The last tokens of the convolution [S, L - 1, D], and the heads' matrices float32 [S, N, K, V], of all slots."""


class GatedDeltaLayer(nnx.Module):
    """The gated delta rule of one layer. ranks: each has some key heads, with their value heads."""

    delta_output: Linear
    delta_conv: nnx.Param[Array]
    delta_log_a: nnx.Param[Array]
    delta_bias: nnx.Param[Array]
    delta_norm: nnx.Param[Array]

    def __init__(
        self, spec: DecoderSpec, delta: GatedDeltaSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks
    ) -> None:
        self.spec, self.eps, self.ranks = delta, spec.norm.eps, ranks
        linears = make_linears(delta.projections(spec.width), "delta_output", dtype=dtype, rngs=rngs, ranks=ranks)
        for name, part in (*linears.items(), *make_arrays(delta.arrays(), dtype).items()):
            setattr(self, name, part)

    def __call__(
        self, x_TD: Array, rotation: Rotation, inputs: AttentionInputs, pages: States, backend: Any
    ) -> tuple[Array, States]:
        """Return the block's output [T, D] and the states of all slots with those of the rows behind this step."""
        spec, tokens = self.spec, len(x_TD)
        names = ("query", "key", "value", "gate", "rate", "decay")
        query, key, value, gate, rate_TN, decay_TN = apply_linears(
            x_TD, *(getattr(self, f"delta_{name}") for name in names)
        )
        conv_SLD, state_SNKV = pages
        conv_BLD, state_BNKV = read_states(conv_SLD, inputs), read_states(state_SNKV, inputs)
        mixed_TX, conv_BLD = self._convolve(jnp.concatenate([query, key, value], axis=-1), conv_BLD, inputs)
        query, key, value = jnp.split(nnx.silu(mixed_TX), [query.shape[1], query.shape[1] + key.shape[1]], axis=-1)
        per_key = spec.num_value_heads // spec.num_key_heads
        query_TNK, key_TNK = (
            jnp.repeat(unit_length(each.reshape(tokens, -1, spec.key_dim)), per_key, axis=1) for each in (query, key)
        )
        values = (
            query_TNK * spec.key_dim**-0.5,
            key_TNK,
            value.reshape(tokens, -1, spec.value_dim),
            log_decay(decay_TN, self.delta_log_a[...], self.delta_bias[...])[..., None],
            nnx.sigmoid(rate_TN.astype(jnp.float32)),
        )
        if inputs.max_queries_per_row == 1:
            out_TNV, state_BNKV = delta_rule_step(*values, state_BNKV)
        else:
            out_TNV, state_BNKV = delta_rule(*values, state_BNKV, cut_rows(inputs))
        states = write_states(conv_SLD, conv_BLD, inputs), write_states(state_SNKV, state_BNKV, inputs)
        return self.delta_output(self._gate(out_TNV, gate).astype(x_TD.dtype)), states

    def _convolve(self, x_TX: Array, state_BLX: Array, inputs: AttentionInputs) -> tuple[Array, Array]:
        kernel_XL = self.delta_conv[...][:, 0]
        if self.ranks.size > 1:
            keys, size = self.spec.key_width, self.ranks.size
            parts = jnp.split(kernel_XL, [keys, 2 * keys])
            local = (lax.dynamic_slice_in_dim(p, self.ranks.offset(len(p) // size), len(p) // size) for p in parts)
            kernel_XL = jnp.concatenate(list(local))
        return convolve_rows(x_TX, kernel_XL, state_BLX, inputs)

    def _gate(self, out_TNV: Array, gate_TX: Array) -> Array:
        """Return norm(out) * silu(gate), float32 [T, N * V]."""
        normed_TNV = out_TNV * lax.rsqrt(jnp.mean(out_TNV * out_TNV, axis=-1, keepdims=True) + self.eps)
        normed_TNV = normed_TNV * self.delta_norm[...].astype(jnp.float32)
        return normed_TNV.reshape(len(gate_TX), -1) * jax.nn.silu(gate_TX.astype(jnp.float32))
