"""The block of Mamba-2: projections, convolutions, the recurrence, and a gate with a norm."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.typing import DTypeLike

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.linear import Linear, apply_linears, apply_multiplier
from jaxserve.layers.mamba2 import mamba2, mamba2_step
from jaxserve.models.attention_layer import Rotation
from jaxserve.models.block_parts import make_arrays, make_linears
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.recurrent_rows import convolve_rows, cut_rows, read_states, write_states
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import Ranks

States = tuple[Array, Array, Array]
"""The last tokens of the convolutions of values [S, L - 1, N * V] and of keys and queries [S, L - 1, 2 * G * K], and
the heads' matrices float32 [S, N, K, V], of all slots."""


class Mamba2Layer(nnx.Module):
    """Mamba-2 of one layer. ranks: each has some heads, and the keys and queries of all groups."""

    mamba_gate: Linear
    mamba_value: Linear
    mamba_key: Linear
    mamba_query: Linear
    mamba_step: Linear
    mamba_output: Linear
    mamba_log_a: nnx.Param[Array]
    mamba_bias: nnx.Param[Array]
    mamba_skip: nnx.Param[Array]
    mamba_norm: nnx.Param[Array]

    def __init__(self, spec: DecoderSpec, mamba: Mamba2Spec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks) -> None:
        self.spec, self.eps, self.ranks = mamba, spec.norm.eps, ranks
        linears = make_linears(mamba.projections(spec.width), "mamba_output", dtype=dtype, rngs=rngs, ranks=ranks)
        for name, part in (*linears.items(), *make_arrays(mamba.arrays(), dtype).items()):
            setattr(self, name, part)

    def __call__(
        self, x_TD: Array, rotation: Rotation, inputs: AttentionInputs, pages: States, backend: Any
    ) -> tuple[Array, States]:
        """Return the block's output [T, D] and the states of all slots with those of the rows behind this step."""
        spec, tokens = self.spec, len(x_TD)
        gate_TX, value_TX, key_TY, query_TY, step_TN = self._project(x_TD)
        value_BLX, key_BLY, state_BNKV = (read_states(each, inputs) for each in pages)
        value_TX, value_BLX = self._convolve("value", value_TX, value_BLX, inputs)
        mixed_TY, key_BLY = self._convolve("key", jnp.concatenate([key_TY, query_TY], axis=-1), key_BLY, inputs)
        key_TGK, query_TGK = (
            self._take_groups(each.reshape(tokens, -1, spec.state_dim)) for each in jnp.split(mixed_TY, 2, axis=-1)
        )
        value_TNV = value_TX.reshape(tokens, -1, spec.head_dim).astype(jnp.float32)
        step_TN = jax.nn.softplus(step_TN.astype(jnp.float32) + self.mamba_bias[...])
        values = (query_TGK, key_TGK, value_TNV, step_TN, -jnp.exp(self.mamba_log_a[...].astype(jnp.float32)))
        if inputs.max_queries_per_row == 1:
            out_TNV, state_BNKV = mamba2_step(*values, state_BNKV)
        else:
            out_TNV, state_BNKV = mamba2(*values, state_BNKV, cut_rows(inputs))
        out_TNV = out_TNV + value_TNV * self.mamba_skip[...].astype(jnp.float32)[:, None]
        new = zip(pages, (value_BLX, key_BLY, state_BNKV), strict=True)
        value_SLX, key_SLY, state_SNKV = (write_states(old, each, inputs) for old, each in new)
        out_TX = self._gate(out_TNV.reshape(tokens, -1), gate_TX)
        out_TD = apply_multiplier(self.mamba_output(out_TX.astype(x_TD.dtype)), spec.multipliers.output)
        return out_TD, (value_SLX, key_SLY, state_SNKV)

    def _project(self, x_TD: Array) -> list[Array]:
        """Return the gate, values, keys, queries and steps of the tokens."""
        names = ("gate", "value", "key", "query", "step")
        outputs = apply_linears(x_TD, *(getattr(self, f"mamba_{name}") for name in names))
        factors = (getattr(self.spec.multipliers, name) for name in names)
        return [apply_multiplier(x_TX, factor) for x_TX, factor in zip(outputs, factors, strict=True)]

    def _convolve(self, name: str, x_TX: Array, state_BLX: Array, inputs: AttentionInputs) -> tuple[Array, Array]:
        """Return silu(convolution(x)) and the new last tokens."""
        kernel_XL = getattr(self, f"mamba_{name}_conv")[...][:, 0]
        bias_X = getattr(self, f"mamba_{name}_conv_bias")[...] if self.spec.conv_bias else None
        x_TX, state_BLX = convolve_rows(x_TX, kernel_XL, state_BLX, inputs, bias_X)
        return nnx.silu(x_TX), state_BLX

    def _first_group(self) -> Array:
        """Return the index of the first group of which this rank has heads."""
        return self.ranks.index * self.spec.num_groups // self.ranks.size

    def _take_groups(self, x_TGK: Array) -> Array:
        """Return the keys or queries of the groups of which this rank has heads."""
        if self.ranks.size == 1:
            return x_TGK
        num = max(1, self.spec.num_groups // self.ranks.size)
        return lax.dynamic_slice_in_dim(x_TGK, self._first_group(), num, axis=1)

    def _gate(self, out_TX: Array, gate_TX: Array) -> Array:
        """Return norm(out * silu(gate)), or silu(gate) * norm(out), or out * silu(gate), float32 [T, N * V]."""
        gate_TX = jax.nn.silu(gate_TX.astype(jnp.float32))
        if self.spec.norm_place == "before_gate":
            return self._norm(out_TX) * gate_TX
        return out_TX * gate_TX if self.spec.norm_place == "none" else self._norm(out_TX * gate_TX)

    def _norm(self, out_TX: Array) -> Array:
        """Return the heads, normed over those of a group."""
        groups = max(1, self.spec.num_groups // self.ranks.size)
        out_TGX = out_TX.reshape(len(out_TX), groups, -1)
        mean_TG = self._group_mean(jnp.mean(out_TGX * out_TGX, axis=-1))
        normed_TGX = out_TGX * lax.rsqrt(mean_TG + self.eps)[..., None]
        return normed_TGX.reshape(out_TX.shape) * self.mamba_norm[...].astype(jnp.float32)

    def _group_mean(self, mean_TG: Array) -> Array:
        """Return the means over whole groups, of which several ranks may have a part each."""
        per_group = self.ranks.size // self.spec.num_groups
        if per_group < 2:
            return mean_TG
        is_own_G = jax.nn.one_hot(self._first_group(), self.spec.num_groups)
        sum_TG = self.ranks.sum(mean_TG * is_own_G)
        return (sum_TG * is_own_G).sum(-1, keepdims=True) / per_group
