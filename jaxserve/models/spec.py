"""DecoderSpec: all values by which decoders differ, layer by layer.

Fields name arithmetic, never architectures, and each is static: a switch that is off leaves no trace in a compiled
program. Keys of config.json are read by the families.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from jaxserve.layers.dense import DenseSpec
from jaxserve.layers.mlp import Activation, ClampedSwiGLU, MLPActivation
from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.models.attention_spec import AttentionSpec, Projection
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.kimi_delta_spec import KimiDeltaSpec
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.shared_keys_spec import SharedKeysSpec
from jaxserve.models.short_conv_spec import ShortConvSpec

NormPlace: TypeAlias = Literal["pre", "post", "sandwich"]
"""pre: x + f(norm(x)); post: x + norm(f(x)); sandwich: x + norm(f(norm(x)))."""

RecurrentSpec: TypeAlias = GatedDeltaSpec | KimiDeltaSpec | Mamba2Spec | ShortConvSpec
AttentionKind: TypeAlias = AttentionSpec | LatentAttentionSpec | SharedKeysSpec | RecurrentSpec
"""What mixes the tokens of a layer: a union, whose members have the methods of AttentionSpec. The decoder has a module
for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MLPSpec:
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))) where there is no gate.

    gate_multiplier     factor of gate(x)
    output_multiplier   factor of the block's output (Falcon-H1)

    Raises ValueError for a factor of a gate that is not there.
    """

    hidden: int
    activation: MLPActivation = "silu"
    is_gated: bool = True
    bias: bool = False
    gate_multiplier: float = 1.0
    output_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if self.gate_multiplier != 1.0 and not self.is_gated:
            raise ValueError(f"gate_multiplier is {self.gate_multiplier} without a gate.")


@dataclass(frozen=True, slots=True, kw_only=True)
class MoESpec:
    """A mixture of experts, each a block of its own.

    hidden            width of each expert
    is_gated          each expert has a gate, as MLPSpec has it
    bias              gate, up and down of each expert add a bias
    shared            a block that every token passes through beside its experts
    has_shared_gate   that block's output is multiplied by the sigmoid of a projection of its input
    latent            experts read so many numbers, a projection of the block's input, and what they give is projected
                      back (Nemotron 3 Super); None: they read the input itself
    has_own_norms     the experts and that block have a norm each before and behind them, instead of the layer's norm
                      before both; the router reads the layer's input (Gemma 4)

    Raises ValueError for a gate, or norms, of a block that is not there, for a gate of a block with norms, for a
    clamped activation without a gate, for norms of latents, and for a router that needs more experts than there are.
    """

    num_experts: int
    hidden: int
    router: RouterSpec
    activation: Activation | ClampedSwiGLU = "silu"
    is_gated: bool = True
    bias: bool = False
    shared: MLPSpec | None = None
    has_shared_gate: bool = False
    latent: int | None = None
    has_own_norms: bool = False

    def __post_init__(self) -> None:
        router, group_size = self.router, self.num_experts // self.router.num_groups
        if self.has_shared_gate and self.shared is None:
            raise ValueError("has_shared_gate is True without a shared block.")
        if self.has_own_norms and self.latent is not None:
            raise ValueError(f"has_own_norms is True with latent {self.latent}; it needs experts that read the input.")
        if self.has_own_norms and (self.shared is None or self.has_shared_gate):
            raise ValueError("has_own_norms is True; it needs a shared block without a gate.")
        if isinstance(self.activation, ClampedSwiGLU) and not self.is_gated:
            raise ValueError("is_gated is False with a clamped activation, which is one of a gate.")
        if self.shared is not None and self.shared.activation == "xielu":
            raise ValueError("shared.activation is 'xielu'; a shared block has no place for its weights.")
        num_best = 2 if router.group_score == "best_two" else 1
        if router.num_groups > 1 and (self.num_experts % router.num_groups or group_size < num_best):
            groups = f"equal groups of {num_best} or more"
            raise ValueError(f"num_groups is {router.num_groups}; {self.num_experts} experts need {groups}.")
        if router.top_k > min(router.top_groups, router.num_groups) * group_size:
            raise ValueError(f"top_k is {router.top_k}, which is more than the experts that may be chosen.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """One layer: attention, then the feed-forward block.

    mlp                   None: there is no feed-forward block (Nemotron-H)
    is_parallel           both read the layer's input, normed, and are added together
    has_two_norms         each of them reads it through a norm of its own
    residual_multiplier   factor of each block's output before it is added
    has_output_scale      the residual stream behind the layer is multiplied by one learned number (Gemma 4)
    skips_attention_norm  attention reads the residual stream as it is (the first layer of ModernBERT)
    is_beside_previous    attention reads what that of the layer before reads, through the same norm (Falcon-H1); the
                          layer before has no feed-forward block

    Raises ValueError for is_parallel with norms in another place than pre, or with experts that have norms of their
    own, or without a feed-forward block, for has_two_norms without is_parallel, and for skips_attention_norm where no
    norm before attention is its own.
    """

    attention: AttentionKind
    mlp: MLPSpec | MoESpec | None
    norm_place: NormPlace = "pre"
    is_parallel: bool = False
    has_two_norms: bool = False
    residual_multiplier: float = 1.0
    has_output_scale: bool = False
    skips_attention_norm: bool = False
    is_beside_previous: bool = False

    def __post_init__(self) -> None:
        if self.is_parallel and self.norm_place != "pre":
            raise ValueError(f"is_parallel is True with norm_place {self.norm_place!r}; it needs 'pre'.")
        if self.is_parallel and self.mlp is None:
            raise ValueError("is_parallel is True without a feed-forward block.")
        if self.is_parallel and isinstance(self.mlp, MoESpec) and self.mlp.has_own_norms:
            raise ValueError("is_parallel is True with experts whose has_own_norms is True; they need blocks in turn.")
        if self.has_two_norms and not self.is_parallel:
            raise ValueError("has_two_norms is True without is_parallel; layers of blocks in turn have two anyway.")
        if self.skips_attention_norm and (self.is_parallel or self.norm_place == "post"):
            raise ValueError("skips_attention_norm is True; it needs blocks in turn with a norm before them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInputSpec:
    """An input that each layer has of its own: of a token, from a table and from what the token is embedded as.

    Behind the feed-forward block it is gated by the residual stream, projected, normed and added.

    width        numbers of one layer's input
    vocab_size   rows of the table
    activation   of the gate
    """

    width: int
    vocab_size: int
    activation: Activation = "silu"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """A decoder: embedding, layers, final norm, logits.

    architecture_name      for people: "LlamaForCausalLM"
    vocab_size             rows of the embedding, which is the width of the logits; may exceed the tokenizer's
    width                  of the residual stream
    norm                   of every norm but the per-head ones' width
    tie_embeddings         the logits read the embedding table; there is no other head
    has_head_bias          the head has a bias
    embedding_multiplier   factor of the embedded tokens
    embedding_norm         a norm of these before the first layer; None: there is none (nanochat has one)
    logits_multiplier      factor of the logits
    logits_softcap         logits z become softcap * tanh(z / softcap)
    layer_inputs           layers have inputs of their own (Gemma 4 E2B and E4B)
    dense                  layers over pooled vectors, each over what the one before it gives: a score head, or those
                           of a model that embeds
    is_bidirectional       a token sees all others of its sequence, or those of a window before and behind it: sequences
                           are computed whole, and nothing is kept

    Raises ValueError for a bias of a head that is not there, for a layer that reads keys of one without such pages, for
    one beside a layer that has more than attention, and for is_bidirectional with another kind than softmax attention.
    """

    architecture_name: str
    vocab_size: int
    width: int
    max_position_embeddings: int
    norm: NormSpec
    layers: tuple[LayerSpec, ...]
    tie_embeddings: bool = False
    has_head_bias: bool = False
    embedding_multiplier: float = 1.0
    embedding_norm: NormSpec | None = None
    logits_multiplier: float = 1.0
    logits_softcap: float | None = None
    layer_inputs: LayerInputSpec | None = None
    dense: tuple[DenseSpec, ...] = ()
    is_bidirectional: bool = False

    def __post_init__(self) -> None:
        if self.has_head_bias and self.tie_embeddings:
            raise ValueError("has_head_bias is True with tie_embeddings; a tied model has no head.")
        if self.is_bidirectional and not all(isinstance(layer.attention, AttentionSpec) for layer in self.layers):
            raise ValueError("is_bidirectional is True with layers that are no softmax attention over keys and values.")
        for index, layer in enumerate(self.layers):
            if layer.is_beside_previous and (index == 0 or self.layers[index - 1].mlp is not None):
                raise ValueError(f"layer {index} is beside the previous one, which is not there or has an mlp.")
            if isinstance(layer.attention, SharedKeysSpec):
                owner, as_own = layer.attention.layer, layer.attention.attention.cache
                if owner >= index or self.layers[owner].attention.cache != as_own:
                    raise ValueError(f"layer {index} reads keys of layer {owner}, which has not {as_own}.")

    @property
    def num_layers(self) -> int:
        """Layers of the decoder."""
        return len(self.layers)

    @property
    def pooled_width(self) -> int:
        """The numbers of a pooled vector."""
        return self.dense[-1].width_out if self.dense else self.width

    def for_length(self, max_model_len: int) -> "DecoderSpec":
        """Return the spec as it holds for requests of at most so many tokens (see LongRopeScaling)."""
        layers = tuple(replace(layer, attention=layer.attention.for_length(max_model_len)) for layer in self.layers)
        return replace(self, layers=layers)


def mlp_projections(width: int, mlp: MLPSpec) -> Iterator[Projection]:
    """Yield the projections of a feed-forward block, in the order in which they are computed."""
    if mlp.is_gated:
        yield Projection("gate", width, mlp.hidden, mlp.bias, "width", "mlp")
    yield Projection("up", width, mlp.hidden, mlp.bias, "width", "mlp")
    yield Projection("down", mlp.hidden, width, mlp.bias, "mlp", "width")


def layer_norms(layer: LayerSpec) -> tuple[str, ...]:
    """Return the names of a layer's norms over the residual stream, in the order in which they are applied."""
    if layer.is_parallel:
        return ("attention_norm", "mlp_norm") if layer.has_two_norms else ("attention_norm",)
    before, after = layer.norm_place in ("pre", "sandwich"), layer.norm_place in ("post", "sandwich")
    has_mlp, has_own_norms = layer.mlp is not None, isinstance(layer.mlp, MoESpec) and layer.mlp.has_own_norms
    names = (("attention_norm", before and not layer.skips_attention_norm), ("attention_post_norm", after))
    names += (("mlp_norm", before and has_mlp and not has_own_norms), ("mlp_post_norm", after and has_mlp))
    return tuple(name for name, is_there in names if is_there)
