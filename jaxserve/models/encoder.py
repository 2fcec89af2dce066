"""The encoder of the BERT family, as NNX modules; what differs by value is in its EncoderSpec.

Sequences lie in rows of equal length [B, S], the rest of a row is padding that no token sees. Nothing is kept between
calls.
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

from jaxserve.attention.whole import attend_whole
from jaxserve.layers.dense import make_dense
from jaxserve.layers.embedding import Embedding
from jaxserve.layers.linear import Linear, apply_linears
from jaxserve.layers.mlp import ACTIVATIONS
from jaxserve.layers.norms import Norm, NormSpec
from jaxserve.layers.param_spec import ParamPath
from jaxserve.models.decoder import ZeroRngs
from jaxserve.models.encoder_spec import EncoderSpec


class EncoderLayer(nnx.Module):
    """One layer: norm(x + attention(x)), then norm(x + feed-forward(x))."""

    def __init__(self, spec: EncoderSpec, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.spec, width = spec, spec.width
        norm = NormSpec(spec.norm_eps, "layer", has_bias=True)
        self.query = Linear(width, width, bias=True, dtype=dtype, rngs=rngs)
        self.key = Linear(width, width, bias=True, dtype=dtype, rngs=rngs)
        self.value = Linear(width, width, bias=True, dtype=dtype, rngs=rngs)
        self.output = Linear(width, width, bias=True, dtype=dtype, rngs=rngs)
        self.attention_norm = Norm(width, norm, dtype=dtype)
        self.up = Linear(width, spec.hidden, bias=True, dtype=dtype, rngs=rngs)
        self.down = Linear(spec.hidden, width, bias=True, dtype=dtype, rngs=rngs)
        self.mlp_norm = Norm(width, norm, dtype=dtype)

    def __call__(self, x_TD: Array, length_B: Array) -> Array:
        """Return the residual stream [B * S, D] behind this layer."""
        with jax.named_scope("attention"):
            x_TD = self.attention_norm(x_TD + self.output(self._attend(x_TD, length_B)))
        with jax.named_scope("mlp"):
            return self.mlp_norm(x_TD + self.down(ACTIVATIONS[self.spec.activation](self.up(x_TD))))

    def _attend(self, x_TD: Array, length_B: Array) -> Array:
        shape = (len(length_B), -1, self.spec.num_heads, self.spec.head_dim)
        projected = apply_linears(x_TD, self.query, self.key, self.value)
        query_BSNH, key_BSNH, value_BSNH = (each.reshape(shape) for each in projected)
        mixed_BSNH = attend_whole(query_BSNH, key_BSNH, value_BSNH, length_B, scale=self.spec.head_dim**-0.5)
        return mixed_BSNH.reshape(x_TD.shape)


class Encoder(nnx.Module):
    """An encoder from token ids to hidden vectors."""

    def __init__(self, spec: EncoderSpec, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.embed = Embedding(spec.vocab_size, spec.width, dtype=dtype, rngs=rngs)
        self.positions = Embedding(spec.num_positions, spec.width, dtype=dtype, rngs=rngs)
        types = spec.num_token_types
        self.types = Embedding(types, spec.width, dtype=dtype, rngs=rngs) if types else None
        self.embedding_norm = Norm(spec.width, NormSpec(spec.norm_eps, "layer", has_bias=True), dtype=dtype)
        self.layers = nnx.List([EncoderLayer(spec, dtype=dtype, rngs=rngs) for _ in range(spec.num_layers)])
        self.dense = make_dense(spec.dense, rngs=rngs)

    def __call__(self, token_BS: Array, length_B: Array, second_B: Array) -> Array:
        """Return hidden_BSD.

        token_BS   int32, the tokens of each row, then padding
        length_B   int32, how many tokens it has, at least 1
        second_B   int32, the position from which its tokens are of the second type
        """
        rows, length = token_BS.shape
        position_S = jnp.arange(length, dtype=jnp.int32)
        with jax.named_scope("embed"):
            x_BSD = self.embed(token_BS.reshape(-1)).reshape(rows, length, -1)
            x_BSD = x_BSD + self.positions(position_S + self.spec.first_position)
            if self.types is not None:
                type_BS = (position_S >= second_B[:, None]).astype(jnp.int32)
                x_BSD = x_BSD + self.types(type_BS.reshape(-1)).reshape(x_BSD.shape)
            x_TD = self.embedding_norm(x_BSD.reshape(rows * length, -1))
        for layer in self.layers:
            graphdef, state = nnx.split(layer)
            x_TD = _run_layer(graphdef, state, x_TD, length_B)
        return x_TD.reshape(rows, length, -1)


@partial(jax.jit, static_argnums=0)
def _run_layer(graphdef: nnx.GraphDef, state: nnx.State, x_TD: Array, length_B: Array) -> Array:
    """Run one layer as a function of its own: equal layers are traced and lowered once, then called by each."""
    return nnx.merge(graphdef, state)(x_TD, length_B)


def abstract_encoder(spec: EncoderSpec, dtype: DTypeLike) -> tuple[nnx.GraphDef, dict[ParamPath, jax.ShapeDtypeStruct]]:
    """Return the encoder's structure, and the shape and type of every leaf by its path. Allocates nothing."""
    with _abstract_lock:
        return _abstract_encoder(spec, jnp.dtype(dtype))


_abstract_lock = threading.Lock()  # programs are traced in several threads; the first does the work


@lru_cache(maxsize=4)
def _abstract_encoder(
    spec: EncoderSpec, dtype: jnp.dtype
) -> tuple[nnx.GraphDef, dict[ParamPath, jax.ShapeDtypeStruct]]:
    model = nnx.eval_shape(lambda: Encoder(spec, dtype=dtype, rngs=cast(nnx.Rngs, ZeroRngs())))
    graphdef, state = nnx.split(model)
    return graphdef, {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}


def merge_encoder(graphdef: nnx.GraphDef, weights: Mapping[ParamPath, Any]) -> Encoder:
    """Return an Encoder over these weights. For use inside a jitted function."""
    flat: dict[Any, Any] = dict(weights)
    return nnx.merge(graphdef, nnx.from_flat_state(flat))
