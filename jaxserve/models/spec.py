"""DecoderSpec: all values by which decoders differ, layer by layer.

Fields name arithmetic, never architectures, and each is static: a switch that is off leaves no trace in a compiled
program. Keys of config.json are read by the families.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from jaxserve.layers.mlp import Activation
from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.param_spec import Axis
from jaxserve.layers.rope import RopeSpec

NormPlace: TypeAlias = Literal["pre", "post", "sandwich"]
"""pre: x + f(norm(x)); post: x + norm(f(x)); sandwich: x + norm(f(norm(x)))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryTemperature:
    """Queries are multiplied by 1 + scale * log(1 + floor((position + offset) / interval)) (Llama 4, Ministral 3)."""

    scale: float
    interval: float
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """Softmax attention over paged keys and values.

    scale          factor of query · key before the softmax
    rope           None: queries and keys are not rotated
    window         a token sees itself and the window - 1 tokens before it; None: all before it
    softcap        scores s become softcap * tanh(s / softcap)
    qk_norm        a norm over each query and key head, or over all heads of a token together
    norms_after_rope   these norms follow the rotation instead of preceding it
    has_sinks      one learned score a head takes part in the softmax and carries no value
    has_output_gate    heads are multiplied by the sigmoid of a projection of the layer's input

    Raises ValueError for norms_after_rope without a norm over each head.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: RopeSpec | None
    window: int | None = None
    softcap: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    norms_after_rope: bool = False
    temperature: QueryTemperature | None = None
    has_sinks: bool = False
    has_output_gate: bool = False

    def __post_init__(self) -> None:
        if self.norms_after_rope and self.qk_norm != "head":
            raise ValueError(f"norms_after_rope is True with qk_norm {self.qk_norm!r}; it needs 'head'.")

    @property
    def qk_norm_widths(self) -> tuple[int, int] | tuple[None, None]:
        """Widths of the norms over queries and over keys, where there are any."""
        match self.qk_norm:
            case "none":
                return None, None
            case "head":
                return self.head_dim, self.head_dim
            case "full":
                return self.query_width, self.key_width

    @property
    def query_width(self) -> int:
        """Numbers of all query heads of a token."""
        return self.num_heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Numbers of all key heads of a token, and of all value heads."""
        return self.num_kv_heads * self.head_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPSpec:
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))) where there is no gate."""

    hidden: int
    activation: Activation = "silu"
    is_gated: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoESpec:
    """A mixture of experts, each a gated block of its own.

    hidden            width of each expert
    shared            a block that every token passes through beside its experts
    has_shared_gate   that block's output is multiplied by the sigmoid of a projection of its input

    Raises ValueError for a gate of a block that is not there, and for a router that needs more experts than there are.
    """

    num_experts: int
    hidden: int
    router: RouterSpec
    activation: Activation = "silu"
    shared: MLPSpec | None = None
    has_shared_gate: bool = False

    def __post_init__(self) -> None:
        router, group_size = self.router, self.num_experts // self.router.num_groups
        if self.has_shared_gate and self.shared is None:
            raise ValueError("has_shared_gate is True without a shared block.")
        if router.num_groups > 1 and (self.num_experts % router.num_groups or group_size < 2):
            raise ValueError(f"num_groups is {router.num_groups}; {self.num_experts} experts need groups of 2 or more.")
        if router.top_k > min(router.top_groups, router.num_groups) * group_size:
            raise ValueError(f"top_k is {router.top_k}, which is more than the experts that may be chosen.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """One layer: attention, then the feed-forward block.

    is_parallel           both read the same normed input and are added together
    residual_multiplier   factor of each block's output before it is added

    Raises ValueError for is_parallel with norms in another place than pre.
    """

    attention: AttentionSpec
    mlp: MLPSpec | MoESpec
    norm_place: NormPlace = "pre"
    is_parallel: bool = False
    residual_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if self.is_parallel and self.norm_place != "pre":
            raise ValueError(f"is_parallel is True with norm_place {self.norm_place!r}; it needs 'pre'.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder: embedding, layers, final norm, logits.

    architecture_name      for people: "LlamaForCausalLM"
    vocab_size             rows of the embedding, which is the width of the logits; may exceed the tokenizer's
    width                  of the residual stream
    norm                   of every norm but the per-head ones' width
    tie_embeddings         the logits read the embedding table; there is no other head
    embedding_multiplier   factor of the embedded tokens
    logits_multiplier      factor of the logits
    logits_softcap         logits z become softcap * tanh(z / softcap)
    """

    architecture_name: str
    vocab_size: int
    width: int
    max_position_embeddings: int
    norm: NormSpec
    layers: tuple[LayerSpec, ...]
    tie_embeddings: bool = False
    embedding_multiplier: float = 1.0
    logits_multiplier: float = 1.0
    logits_softcap: float | None = None

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.layers)

    def for_length(self, max_model_len: int) -> "DecoderSpec":
        """Return the spec as it holds for requests of at most so many tokens (see LongRopeScaling)."""
        layers = tuple(
            replace(layer, attention=replace(layer.attention, rope=layer.attention.rope.for_length(max_model_len)))
            if layer.attention.rope is not None
            else layer
            for layer in self.layers
        )
        return replace(self, layers=layers)


@dataclass(frozen=True, slots=True)
class Projection:
    """One matrix product of a layer: kernel [width_in, width_out], with its logical axes."""

    name: str
    width_in: int
    width_out: int
    bias: bool
    axis_in: Axis
    axis_out: Axis | None


def attention_projections(width: int, attention: AttentionSpec) -> Iterator[Projection]:
    """Yield the projections of an attention block, in the order in which they are computed."""
    query, key = attention.query_width, attention.key_width
    yield Projection("query", width, query, attention.qkv_bias, "width", "heads")
    yield Projection("key", width, key, attention.qkv_bias, "width", "kv_heads")
    yield Projection("value", width, key, attention.qkv_bias, "width", "kv_heads")
    if attention.has_output_gate:
        yield Projection("output_gate", width, query, attention.qkv_bias, "width", "heads")
    yield Projection("output", query, width, attention.output_bias, "heads", "width")


def mlp_projections(width: int, mlp: MLPSpec) -> Iterator[Projection]:
    """Yield the projections of a feed-forward block, in the order in which they are computed."""
    if mlp.is_gated:
        yield Projection("gate", width, mlp.hidden, mlp.bias, "width", "mlp")
    yield Projection("up", width, mlp.hidden, mlp.bias, "width", "mlp")
    yield Projection("down", mlp.hidden, width, mlp.bias, "mlp", "width")


def layer_norms(layer: LayerSpec) -> tuple[str, ...]:
    """Return the names of a layer's norms over the residual stream, in the order in which they are applied."""
    if layer.is_parallel:
        return ("attention_norm",)
    before, after = layer.norm_place in ("pre", "sandwich"), layer.norm_place in ("post", "sandwich")
    names = (("attention_norm", before), ("attention_post_norm", after), ("mlp_norm", before), ("mlp_post_norm", after))
    return tuple(name for name, is_there in names if is_there)
