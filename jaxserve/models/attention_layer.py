"""The attention block of a layer: projections, norms, rotation, and the backend's product over the pages."""

from typing import TypeAlias

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.attention import AttentionBackend, LayerPages
from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.linear import apply_linears
from jaxserve.layers.rope import apply_rope
from jaxserve.models.attention_spec import AttentionSpec, QueryTemperature
from jaxserve.models.block_parts import make_arrays, make_linears, make_norms
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.ranks import Ranks

Rotation: TypeAlias = tuple[Array, Array] | None
"""Cosine and sine of the tokens' angles, [T, rotary_dim] each; None: this layer does not rotate."""


class AttentionLayer(nnx.Module):
    """Attention of one layer: projections, rotation, and the backend's product over the pages."""

    def __init__(
        self, spec: DecoderSpec, attention: AttentionSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks
    ) -> None:
        self.spec = attention
        projections = make_linears(attention.projections(spec.width), "output", dtype=dtype, rngs=rngs, ranks=ranks)
        self.query, self.key, self.value = projections["query"], projections["key"], projections.get("value")
        self.output = projections["output"]
        self.output_gate = projections.get("output_gate")
        norms = make_norms(attention.norms(), spec.norm, dtype=dtype, ranks=ranks)
        self.query_norm, self.key_norm = norms.get("query_norm"), norms.get("key_norm")
        self.value_norm = norms.get("value_norm")
        self.sinks = make_arrays(attention.arrays(), dtype).get("sinks")

    def __call__(
        self,
        x_TD: Array,
        rotation: Rotation,
        inputs: AttentionInputs,
        pages: LayerPages,
        backend: AttentionBackend,
    ) -> tuple[Array, LayerPages]:
        """Return the block's output [T, D] and the pages with the tokens' keys and values in them."""
        spec, tokens = self.spec, x_TD.shape[0]
        query_TX, key_TX, value_TX = self._project(x_TD)
        if spec.qk_norm == "full":
            query_TX, key_TX = self._norm(query_TX, key_TX)
        query_TNH, key_TKH = (each.reshape(tokens, -1, spec.head_dim) for each in (query_TX, key_TX))
        value_TKH = value_TX.reshape(tokens, -1, spec.value_size)
        if self.value_norm is not None:
            value_TKH = self.value_norm(value_TKH)
        if spec.value_multiplier != 1.0:
            value_TKH = value_TKH * spec.value_multiplier
        if spec.value_size < spec.head_dim:  # pages hold keys and values of one size
            value_TKH = jnp.pad(value_TKH, ((0, 0), (0, 0), (0, spec.head_dim - spec.value_size)))
        if spec.norms_heads and not spec.norms_after_rope:
            query_TNH, key_TKH = self._norm(query_TNH, key_TKH)
        query_TNH, key_TKH = self._rotate(query_TNH, rotation), self._rotate(key_TKH, rotation)
        if spec.norms_heads and spec.norms_after_rope:
            query_TNH, key_TKH = self._norm(query_TNH, key_TKH)
        if spec.temperature is not None:
            query_TNH = query_TNH * _temperature(spec.temperature, inputs.position_T, query_TNH.dtype)
        pages = backend.write(pages, key_TKH, value_TKH, inputs.slot_T)
        mixed_TNH = backend.attend(
            query_TNH,
            pages,
            inputs,
            scale=spec.scale,
            window=spec.window,
            softcap=spec.softcap,
            sinks=None if self.sinks is None else self.sinks[...],
        )
        if spec.value_size < spec.head_dim:
            mixed_TNH = mixed_TNH[..., : spec.value_size]
        mixed_TX = mixed_TNH.reshape(tokens, -1)
        if self.output_gate is not None:
            mixed_TX = mixed_TX * nnx.sigmoid(self.output_gate(x_TD))
        return self.output(mixed_TX), pages

    def _project(self, x_TD: Array) -> tuple[Array, Array, Array]:
        """Return the queries, keys and values of all heads, [T, X] each."""
        linears = (self.query, self.key) if self.value is None else (self.query, self.key, self.value)
        query_TX, key_TX, *rest = apply_linears(x_TD, *linears)
        if (limit := self.spec.qkv_clip) is not None:
            query_TX, key_TX, *rest = (jnp.clip(each, -limit, limit) for each in (query_TX, key_TX, *rest))
        return query_TX, key_TX, rest[0] if rest else key_TX

    def _norm(self, query: Array, key: Array) -> tuple[Array, Array]:
        assert self.query_norm is not None and self.key_norm is not None
        return self.query_norm(query), self.key_norm(key)

    def _rotate(self, x_TNH: Array, rotation: Rotation) -> Array:
        if self.spec.rope is None:
            return x_TNH
        assert rotation is not None
        return apply_rope(x_TNH, *rotation, is_interleaved=self.spec.rope.is_interleaved)


def _temperature(temperature: QueryTemperature, position_T: Array, dtype: DTypeLike) -> Array:
    """Return each query's factor, [T, 1, 1]."""
    steps_T = jnp.floor((position_T + temperature.offset).astype(jnp.float32) / temperature.interval)
    return (1 + temperature.scale * jnp.log1p(steps_T)).astype(dtype)[:, None, None]
