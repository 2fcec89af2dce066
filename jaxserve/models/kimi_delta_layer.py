"""The block of Kimi's delta rule: projections, convolutions, the rule with a decay a key number, and a gated norm."""

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
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.recurrent_rows import convolve_rows, cut_rows, read_states, write_states
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import Ranks

States = tuple[Array, Array]
"""The last tokens of the convolutions [S, L - 1, D], and the heads' matrices float32 [S, N, K, V], of all slots."""


class KimiDeltaLayer(nnx.Module):
    """Kimi's delta rule of one layer. ranks: each has some heads."""

    kda_decay_up: Linear
    kda_gate_up: Linear
    kda_output: Linear
    kda_log_a: nnx.Param[Array]
    kda_bias: nnx.Param[Array]
    kda_norm: nnx.Param[Array]

    def __init__(
        self, spec: DecoderSpec, delta: KimiDeltaSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks
    ) -> None:
        self.spec, self.eps = delta, spec.norm.eps
        linears = make_linears(delta.projections(spec.width), "kda_output", dtype=dtype, rngs=rngs, ranks=ranks)
        for name, part in (*linears.items(), *make_arrays(delta.arrays(), dtype).items()):
            setattr(self, name, part)

    def __call__(
        self, x_TD: Array, rotation: Rotation, inputs: AttentionInputs, pages: States, backend: Any
    ) -> tuple[Array, States]:
        """Return the block's output [T, D] and the states of all slots with those of the rows behind this step."""
        names = ("query", "key", "value", "decay_down", "gate_down", "rate")
        query, key, value, decay, gate, rate_TN = apply_linears(x_TD, *(getattr(self, f"kda_{name}") for name in names))
        conv_SLD, state_SNKV = pages
        conv_BLD, state_BNKV = read_states(conv_SLD, inputs), read_states(state_SNKV, inputs)
        kernel_XL = jnp.concatenate([getattr(self, f"kda_{name}_conv")[...][:, 0] for name in names[:3]])
        mixed_TX = jnp.concatenate([query, key, value], axis=-1)
        mixed_TX, conv_BLD = convolve_rows(mixed_TX, kernel_XL, conv_BLD, inputs)
        query_TNK, key_TNK, value_TNK = (self._cut(each) for each in jnp.split(nnx.silu(mixed_TX), 3, axis=-1))
        bias_NK = self.kda_bias[...].reshape(-1, self.spec.head_dim)
        values = (
            unit_length(query_TNK) * self.spec.head_dim**-0.5,
            unit_length(key_TNK),
            value_TNK,
            log_decay(self._cut(self.kda_decay_up(decay)), self.kda_log_a[...][0, 0], bias_NK),
            nnx.sigmoid(rate_TN.astype(jnp.float32)),
        )
        if inputs.max_queries_per_row == 1:
            out_TNV, state_BNKV = delta_rule_step(*values, state_BNKV)
        else:
            out_TNV, state_BNKV = delta_rule(*values, state_BNKV, cut_rows(inputs))
        states = write_states(conv_SLD, conv_BLD, inputs), write_states(state_SNKV, state_BNKV, inputs)
        return self.kda_output(self._gate(out_TNV, self.kda_gate_up(gate)).astype(x_TD.dtype)), states

    def _cut(self, x_TX: Array) -> Array:
        """Return the numbers of all heads head by head, [T, N, K]."""
        return x_TX.reshape(len(x_TX), -1, self.spec.head_dim)

    def _gate(self, out_TNV: Array, gate_TX: Array) -> Array:
        """Return norm(out) * sigmoid(gate), float32 [T, N * V]."""
        normed_TNV = out_TNV * lax.rsqrt(jnp.mean(out_TNV * out_TNV, axis=-1, keepdims=True) + self.eps)
        normed_TNV = normed_TNV * self.kda_norm[...].astype(jnp.float32)
        return normed_TNV.reshape(len(gate_TX), -1) * jax.nn.sigmoid(gate_TX.astype(jnp.float32))
