"""The decoder, written once for all families, as NNX modules; what differs by value is in its DecoderSpec.

NNX while tracing, trees at rest: `abstract_decoder` gives the shapes without allocating, weights are loaded into a flat
dict, and `merge_params` makes a Decoder of them inside the jitted step. Layers are unrolled; a scan would copy each
layer's weights and pages. The backend decides how attention is computed and how pages are laid out.
"""

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike

from jaxserve.attention import AttentionBackend, LayerPages
from jaxserve.attention.inputs import AttentionInputs
from jaxserve.cache.pages import ModelPages
from jaxserve.layers.dense import make_dense
from jaxserve.layers.embedding import Embedding, LMHead
from jaxserve.layers.linear import apply_multiplier, matmul_precision
from jaxserve.layers.mlp import MLP
from jaxserve.layers.moe import MoE
from jaxserve.layers.norms import Norm, NormSpec, apply_norm
from jaxserve.layers.param_spec import ParamPath
from jaxserve.layers.rope import compute_cos_sin
from jaxserve.models.attention_layer import AttentionLayer, Rotation
from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.models.delta_layer import GatedDeltaLayer
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.kimi_delta_layer import KimiDeltaLayer
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.latent_attention import LatentAttentionLayer
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.layer_inputs import LayerInputBlock, LayerInputs
from jaxserve.models.mamba2_layer import Mamba2Layer
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.shared_keys_layer import SharedKeysLayer
from jaxserve.models.shared_keys_spec import SharedKeysSpec
from jaxserve.models.short_conv_layer import ShortConvLayer
from jaxserve.models.short_conv_spec import ShortConvSpec
from jaxserve.models.spec import DecoderSpec, LayerSpec, MLPSpec, MoESpec, layer_norms
from jaxserve.parallel.ranks import ONE_RANK, Ranks

RecurrentModule: TypeAlias = GatedDeltaLayer | KimiDeltaLayer | Mamba2Layer | ShortConvLayer
AttentionModule: TypeAlias = AttentionLayer | LatentAttentionLayer | SharedKeysLayer | RecurrentModule
ATTENTION_LAYERS: Mapping[type, Callable[..., AttentionModule]] = {
    AttentionSpec: AttentionLayer,
    LatentAttentionSpec: LatentAttentionLayer,
    GatedDeltaSpec: GatedDeltaLayer,
    KimiDeltaSpec: KimiDeltaLayer,
    Mamba2Spec: Mamba2Layer,
    SharedKeysSpec: SharedKeysLayer,
    ShortConvSpec: ShortConvLayer,
}
"""The module of each kind of attention."""


class DecoderLayer(nnx.Module):
    """One layer: attention, then the feed-forward block, each with its norms and added to the residual stream."""

    def __init__(self, spec: DecoderSpec, layer: LayerSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks) -> None:
        self.spec = layer
        norms = {name: Norm(spec.width, spec.norm, dtype=dtype) for name in layer_norms(layer)}
        self.attention_norm, self.attention_post_norm = norms.get("attention_norm"), norms.get("attention_post_norm")
        make_attention = ATTENTION_LAYERS[type(layer.attention)]
        self.attention = make_attention(spec, layer.attention, dtype=dtype, rngs=rngs, ranks=ranks)
        self.mlp_norm, self.mlp_post_norm = norms.get("mlp_norm"), norms.get("mlp_post_norm")
        make_mlp = partial(_make_mlp, spec.width, norm=spec.norm, dtype=dtype, rngs=rngs, ranks=ranks)
        self.mlp = None if layer.mlp is None else make_mlp(layer.mlp)
        self.layer_input = LayerInputBlock(spec, dtype=dtype, rngs=rngs) if spec.layer_inputs else None
        self.output_scale = nnx.Param(jnp.ones((1,), dtype)) if layer.has_output_scale else None

    def __call__(
        self,
        x_TD: Array,
        rotation: Rotation,
        inputs: AttentionInputs,
        pages: LayerPages,
        backend: AttentionBackend,
        input_TP: Array | None = None,
        before_TD: Array | None = None,
    ) -> tuple[Array, LayerPages, Array | None]:
        """Return the residual stream [T, D] behind this layer, its pages as written, and the experts of each token.

        input_TP    what the layer has as an input of its own
        before_TD   the residual stream before the previous layer, where attention reads that one

        The experts are int32 [T, top_k], None of a layer that has none.
        """
        normed_TD = apply_norm(self.attention_norm, x_TD if before_TD is None else before_TD)
        with jax.named_scope("attention"):
            mixed_TD, pages = self.attention(normed_TD, rotation, inputs, pages, backend)
        if self.spec.is_parallel:
            if self.mlp_norm is not None:
                normed_TD = self.mlp_norm(x_TD)
            x_TD = x_TD + self._scaled(mixed_TD)
            mixed_TD, expert_TK = self._feed_forward(normed_TD, inputs)
            return self._finish(x_TD + self._scaled(mixed_TD), input_TP), pages, expert_TK
        x_TD = x_TD + self._scaled(apply_norm(self.attention_post_norm, mixed_TD))
        if self.mlp is None:
            return self._finish(x_TD, input_TP), pages, None
        with jax.named_scope("mlp"):
            mixed_TD, expert_TK = self._feed_forward(apply_norm(self.mlp_norm, x_TD), inputs)
        x_TD = x_TD + self._scaled(apply_norm(self.mlp_post_norm, mixed_TD))
        return self._finish(x_TD, input_TP), pages, expert_TK

    def _feed_forward(self, x_TD: Array, inputs: AttentionInputs) -> tuple[Array, Array | None]:
        assert self.mlp is not None
        return self.mlp(x_TD, inputs.is_real_T) if isinstance(self.mlp, MoE) else (self.mlp(x_TD), None)

    def _finish(self, x_TD: Array, input_TP: Array | None) -> Array:
        if self.layer_input is not None:
            assert input_TP is not None
            with jax.named_scope("layer_input"):
                x_TD = x_TD + self._scaled(self.layer_input(x_TD, input_TP))
        return x_TD if self.output_scale is None else x_TD * self.output_scale[...]

    def _scaled(self, x_TD: Array) -> Array:
        return apply_multiplier(x_TD, self.spec.residual_multiplier)


def _make_mlp(
    width: int, mlp: MLPSpec | MoESpec, norm: NormSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks = ONE_RANK
) -> MLP | MoE:
    if isinstance(mlp, MLPSpec):
        return MLP(
            width,
            mlp.hidden,
            activation=mlp.activation,
            is_gated=mlp.is_gated,
            bias=mlp.bias,
            dtype=dtype,
            rngs=rngs,
            ranks=ranks,
            gate_multiplier=mlp.gate_multiplier,
            output_multiplier=mlp.output_multiplier,
        )
    shared = None if mlp.shared is None else _make_mlp(width, mlp.shared, norm, dtype=dtype, rngs=rngs)
    assert not isinstance(shared, MoE)
    return MoE(
        width,
        num_experts=mlp.num_experts,
        hidden=mlp.hidden,
        router=mlp.router,
        activation=mlp.activation,
        is_gated=mlp.is_gated,
        bias=mlp.bias,
        shared=shared,
        has_shared_gate=mlp.has_shared_gate,
        dtype=dtype,
        rngs=rngs,
        ranks=ranks,
        norm=norm if mlp.has_own_norms else None,
        latent=mlp.latent,
    )


@partial(jax.jit, static_argnums=(0, 6, 9))
def _run_layer(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    x_TD: Array,
    rotation: Rotation,
    inputs: AttentionInputs,
    pages: LayerPages,
    backend: AttentionBackend,
    input_TP: Array | None,
    before_TD: Array | None,
    returns_experts: bool,
) -> tuple[Array, LayerPages, Array | None]:
    """Run one layer as a function of its own: equal layers are traced and lowered once, then called by each.

    returns_experts   without, the experts are not among the results, and leave no trace in the lowered text

    XLA inlines the calls, so the compiled program is the same; for 30 layers tracing and lowering took
    0.5 s instead of 2.0 a shape.
    """
    layer = nnx.merge(graphdef, state)
    x_TD, pages, expert_TK = layer(x_TD, rotation, inputs, pages, backend, input_TP, before_TD)
    return x_TD, pages, expert_TK if returns_experts else None


class Decoder(nnx.Module):
    """A decoder from token ids to hidden vectors, which writes keys and values into the pages.

    ranks: each has some heads, hidden numbers and tokens of the vocabulary; hidden vectors are whole on every rank.
    """

    def __init__(self, spec: DecoderSpec, *, dtype: DTypeLike, rngs: nnx.Rngs, ranks: Ranks = ONE_RANK) -> None:
        self.spec, self.ranks = spec, ranks
        self.embed = Embedding(spec.vocab_size, spec.width, dtype=dtype, rngs=rngs, ranks=ranks)
        self.embedding_norm = Norm(spec.width, spec.embedding_norm, dtype=dtype) if spec.embedding_norm else None
        self.layer_inputs = LayerInputs(spec, dtype=dtype, rngs=rngs, ranks=ranks) if spec.layer_inputs else None
        self.layers = nnx.List(
            [DecoderLayer(spec, layer, dtype=dtype, rngs=rngs, ranks=ranks) for layer in spec.layers]
        )
        self.final_norm = Norm(spec.width, spec.norm, dtype=dtype)
        self.head = (
            None
            if spec.tie_embeddings
            else LMHead(spec.vocab_size, spec.width, dtype=dtype, rngs=rngs, has_bias=spec.has_head_bias, ranks=ranks)
        )
        self.dense = make_dense(spec.dense, rngs=rngs)

    def __call__(
        self,
        token_T: Array,
        inputs: tuple[AttentionInputs, ...],
        pages: ModelPages,
        backend: AttentionBackend,
        *,
        returns_experts: bool = False,
    ) -> tuple[Array, ModelPages, tuple[Array, ...]]:
        """Return hidden_TD after the final norm, the pages written, and the experts of each token.

        token_T is int32 [T]; inputs hold one entry a layer. The inputs differ by page table and slots alone. The
        experts are int32 [T, top_k] for each layer that has some; () without returns_experts.
        """
        spec = self.spec
        with jax.named_scope("embed"):
            x_TD = self.embed(token_T)
        if spec.embedding_multiplier != 1.0:
            x_TD = x_TD * jnp.asarray(spec.embedding_multiplier, x_TD.dtype)
        x_TD = apply_norm(self.embedding_norm, x_TD)
        with jax.named_scope("layer_inputs"):
            given = (None,) * spec.num_layers if self.layer_inputs is None else self.layer_inputs(token_T, x_TD)
        rotations = {
            key: compute_cos_sin(inputs[0].position_T, *key)
            for key in dict.fromkeys(layer.attention.rotation for layer in spec.layers)
            if key is not None
        }
        assert len(pages.places) == spec.num_layers, pages.places
        before_TD, experts = x_TD, []
        for index, (module, layer, layer_inputs, input_TP) in enumerate(
            zip(self.layers, spec.layers, inputs, given, strict=True)
        ):
            key = layer.attention.rotation
            turns = None if key is None else rotations[key]
            graphdef, state = nnx.split(module)
            read_TD, before_TD = before_TD if layer.is_beside_previous else None, x_TD
            given_TD = (input_TP, read_TD)
            x_TD, layer_pages, expert_TK = _run_layer(
                graphdef, state, x_TD, turns, layer_inputs, pages.get(index), backend, *given_TD, returns_experts
            )
            pages = pages.set(index, layer_pages)
            experts += [] if expert_TK is None else [expert_TK]
        return self.final_norm(x_TD), pages, tuple(experts)

    def compute_logits(self, hidden_BD: Array) -> Array:
        """Return logits_BV float32 of hidden_BD, some rows of hidden_TD; those of a rank's own tokens."""
        logits_BV = (self.embed if self.head is None else self.head).compute_logits(hidden_BD)
        if self.spec.logits_multiplier != 1.0:
            logits_BV = logits_BV * self.spec.logits_multiplier
        if self.spec.logits_softcap is not None:
            logits_BV = jnp.tanh(logits_BV / self.spec.logits_softcap) * self.spec.logits_softcap
        return self._without_padding(logits_BV)

    def compute_token_logits(self, hidden_BD: Array, token_N: Array) -> Array:
        """Return float32 logits [B, N] of some tokens alone, of hidden_BD, some rows of hidden_TD."""
        table_ND = (self.embed if self.head is None else self.head).take_rows(token_N)
        return jnp.einsum(
            "bd,nd->bn",
            hidden_BD,
            table_ND,
            precision=matmul_precision(hidden_BD.dtype),
            preferred_element_type=jnp.float32,
        )

    def _without_padding(self, logits_BV: Array) -> Array:
        """Set the logits of rows that only fill up the vocabulary of the last ranks to -inf."""
        num = logits_BV.shape[1]
        if self.ranks.size == 1 or num * self.ranks.size == self.spec.vocab_size:
            return logits_BV
        token_BV = jax.lax.broadcasted_iota(jnp.int32, logits_BV.shape, 1) + self.ranks.offset(num)
        return jnp.where(token_BV < self.spec.vocab_size, logits_BV, -jnp.inf)


class ZeroRngs:
    """Replacement of random streams where only shapes matter: zeros are traced several times as fast."""

    def __init__(self) -> None:
        self.params = self

    def normal(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return zeros of this shape and type."""
        return jnp.zeros(shape, dtype)


def abstract_decoder(
    spec: DecoderSpec, dtype: DTypeLike, ranks: Ranks = ONE_RANK
) -> tuple[nnx.GraphDef, dict[ParamPath, jax.ShapeDtypeStruct]]:
    """Return the decoder's structure, and the shape and type of every leaf by its path. Allocates nothing.

    Remembered for the last few models: every program that is traced asks for it.
    """
    with _abstract_lock:
        return _abstract_decoder(spec, jnp.dtype(dtype), ranks)


_abstract_lock = threading.Lock()  # programs are traced in several threads; the first does the work


@lru_cache(maxsize=4)
def _abstract_decoder(
    spec: DecoderSpec, dtype: jnp.dtype, ranks: Ranks
) -> tuple[nnx.GraphDef, dict[ParamPath, jax.ShapeDtypeStruct]]:
    model = nnx.eval_shape(lambda: Decoder(spec, dtype=dtype, rngs=cast(nnx.Rngs, ZeroRngs()), ranks=ranks))
    graphdef, state = nnx.split(model)
    return graphdef, {path: variable.get_value() for path, variable in nnx.to_flat_state(state)}


def merge_params(graphdef: nnx.GraphDef, weights: Mapping[ParamPath, Any]) -> Decoder:
    """Return a Decoder over these weights; the inverse of `flatten_params`. For use inside a jitted function."""
    flat: dict[Any, Any] = dict(weights)
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def flatten_params(model: Decoder) -> dict[ParamPath, Array]:
    """Return a Decoder's weights by path, as `abstract_decoder` names them."""
    return {path: variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(model))}
