"""The Llama-shaped decoder, written once, as NNX modules.

NNX while tracing, trees at rest: `abstract_decoder` gives the shapes without allocating, weights are loaded into a flat
dict, and `merge_params` makes a Decoder of them inside the jitted step. Layers are unrolled; a scan would copy each
layer's weights and pages. How attention is computed and how pages look is the backend's business.
"""

import threading
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.attention import AttentionBackend, LayerPages
from jaxserve.attention.inputs import AttentionInputs
from jaxserve.layers.embedding import Embedding, LMHead
from jaxserve.layers.linear import Linear, apply_linears
from jaxserve.layers.mlp import GatedMLP
from jaxserve.layers.norms import RMSNorm
from jaxserve.layers.rope import apply_rope, compute_cos_sin
from jaxserve.models.spec import DecoderSpec, ParamPath, attention_projections


class AttentionLayer(nnx.Module):
    """Projects, rotates, leaves keys and values in the pages, and asks the backend for the answer."""

    def __init__(self, spec: DecoderSpec, window: int | None, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.head_dim, self.scale, self.window = spec.head_dim, spec.attention_scale, window
        projections = {
            name: Linear(width_in, width_out, bias=bias, dtype=dtype, rngs=rngs)
            for name, width_in, width_out, bias in attention_projections(spec)
        }
        self.query, self.key, self.value = projections["query"], projections["key"], projections["value"]
        self.output = projections["output"]
        norms = [RMSNorm(spec.head_dim, eps=spec.norm_eps, dtype=dtype) if spec.qk_norm else None for _ in range(2)]
        self.query_norm, self.key_norm = norms

    def __call__(
        self,
        x_TD: Array,
        rotation: tuple[Array, Array],
        inputs: AttentionInputs,
        pages: LayerPages,
        backend: AttentionBackend,
    ) -> tuple[Array, LayerPages]:
        tokens = x_TD.shape[0]
        projected = apply_linears(x_TD, self.query, self.key, self.value)
        query_TNH, key_TKH, value_TKH = (each.reshape(tokens, -1, self.head_dim) for each in projected)
        if self.query_norm is not None and self.key_norm is not None:
            query_TNH, key_TKH = self.query_norm(query_TNH), self.key_norm(key_TKH)
        query_TNH, key_TKH = apply_rope(query_TNH, *rotation), apply_rope(key_TKH, *rotation)
        pages = backend.write(pages, key_TKH, value_TKH, inputs.slot_T)
        mixed_TNH = backend.attend(query_TNH, pages, inputs, scale=self.scale, window=self.window, softcap=None)
        return self.output(mixed_TNH.reshape(tokens, -1)), pages


class DecoderLayer(nnx.Module):
    """One layer: attention, then the feed-forward block, each normed before and added to the stream after."""

    def __init__(self, spec: DecoderSpec, window: int | None, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.attention_norm = RMSNorm(spec.width, eps=spec.norm_eps, dtype=dtype)
        self.attention = AttentionLayer(spec, window, dtype=dtype, rngs=rngs)
        self.mlp_norm = RMSNorm(spec.width, eps=spec.norm_eps, dtype=dtype)
        self.mlp = GatedMLP(spec.width, spec.mlp_width, bias=spec.mlp_bias, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_TD: Array,
        rotation: tuple[Array, Array],
        inputs: AttentionInputs,
        pages: LayerPages,
        backend: AttentionBackend,
    ) -> tuple[Array, LayerPages]:
        mixed_TD, pages = self.attention(self.attention_norm(x_TD), rotation, inputs, pages, backend)
        x_TD = x_TD + mixed_TD
        return x_TD + self.mlp(self.mlp_norm(x_TD)), pages


@partial(jax.jit, static_argnums=(0, 6))
def _run_layer(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    x_TD: Array,
    rotation: tuple[Array, Array],
    inputs: AttentionInputs,
    pages: LayerPages,
    backend: AttentionBackend,
) -> tuple[Array, LayerPages]:
    """One layer, as a function of its own: equal layers are traced and lowered once, then called by each.

    XLA puts the calls back in line, so the compiled program is the same; for 30 layers tracing and lowering took
    0.5 s instead of 2.0 a shape.
    """
    return nnx.merge(graphdef, state)(x_TD, rotation, inputs, pages, backend)


class Decoder(nnx.Module):
    """Token ids in, hidden vectors out, keys and values left in the pages. Random weights until loaded ones come."""

    def __init__(self, spec: DecoderSpec, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.embed = Embedding(spec.vocab_size, spec.width, dtype=dtype, rngs=rngs)
        self.layers = nnx.List([DecoderLayer(spec, window, dtype=dtype, rngs=rngs) for window in spec.windows])
        self.final_norm = RMSNorm(spec.width, eps=spec.norm_eps, dtype=dtype)
        self.head = None if spec.tie_embeddings else LMHead(spec.vocab_size, spec.width, dtype=dtype, rngs=rngs)

    def __call__(
        self, token_T: Array, inputs: AttentionInputs, pages: tuple[LayerPages, ...], backend: AttentionBackend
    ) -> tuple[Array, tuple[LayerPages, ...]]:
        """token_T int32 [T], one entry of pages a layer → hidden_TD after the final norm, and the pages written."""
        x_TD = self.embed(token_T)
        rotation = compute_cos_sin(inputs.position_T, self.spec.rope, self.spec.head_dim)
        written = []
        for block, layer_pages in zip(self.layers, pages, strict=True):
            graphdef, state = nnx.split(block)
            x_TD, layer_pages = _run_layer(graphdef, state, x_TD, rotation, inputs, layer_pages, backend)
            written.append(layer_pages)
        return self.final_norm(x_TD), tuple(written)

    def compute_logits(self, hidden_BD: Array) -> Array:
        """hidden_BD, some rows of hidden_TD → logits_BV float32."""
        return (self.embed if self.head is None else self.head).compute_logits(hidden_BD)


class ZeroRngs:
    """Stands in for random streams where only shapes count: zeros are traced several times as fast."""

    def __init__(self) -> None:
        self.params = self

    def normal(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return jnp.zeros(shape, dtype)


def abstract_decoder(spec: DecoderSpec, dtype: DTypeLike) -> tuple[nnx.GraphDef, dict[ParamPath, jax.ShapeDtypeStruct]]:
    """The decoder's structure, and the shape and type of every leaf by its path. Allocates nothing.

    Remembered for the last few models: every program that is traced asks for it.
    """
    with _abstract_lock:
        return _abstract_decoder(spec, jnp.dtype(dtype))


_abstract_lock = threading.Lock()  # programs are traced in several threads; the first does the work


@lru_cache(maxsize=4)
def _abstract_decoder(
    spec: DecoderSpec, dtype: jnp.dtype
) -> tuple[nnx.GraphDef, dict[ParamPath, jax.ShapeDtypeStruct]]:
    model = nnx.eval_shape(lambda: Decoder(spec, dtype=dtype, rngs=cast(nnx.Rngs, ZeroRngs())))
    graphdef, state = nnx.split(model)
    return graphdef, {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}


def merge_params(graphdef: nnx.GraphDef, weights: Mapping[ParamPath, Any]) -> Decoder:
    """A Decoder over these weights; the inverse of `flatten_params`. Meant for inside a jitted function."""
    flat: dict[Any, Any] = dict(weights)
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def flatten_params(model: Decoder) -> dict[ParamPath, Array]:
    """A Decoder's weights by path, as `abstract_decoder` names them."""
    return {path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model))}
