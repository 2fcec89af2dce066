"""Gemma 4, text: larger heads in layers without a window, whose keys may be values, too; experts beside a dense block.

E2B and E4B have an input of its own for each layer, and their last layers read keys and values of earlier ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from jaxserve.layers.moe import RouterSpec
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.rope import RopeSpec
from jaxserve.models.attention_spec import AttentionSpec
from jaxserve.models.config_reader import MAX_EXPERTS, MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import (
    read_decoder_spec,
    read_layer_config,
    read_nullable_float,
    read_typed_windows,
    with_attention,
    with_mlps,
)
from jaxserve.models.family import SANDWICH, DecoderFamily, named
from jaxserve.models.rope_config import read_rope_object
from jaxserve.models.shared_keys_spec import SharedKeysSpec
from jaxserve.models.spec import DecoderSpec, LayerInputSpec, LayerSpec, MLPSpec, MoESpec

ROPES = {
    "full_attention": {"rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


class Variant(NamedTuple):
    """A config class of transformers, and what it says where a config does not.

    layer_input_width   of the input that every layer has of its own; None: no model of this class has them
    """

    architecture_name: str
    model_type: str
    window: int
    max_positions: int
    layer_input_width: int | None


def _read(config: ConfigReader, variant: Variant) -> DecoderSpec:
    config.require("use_bidirectional_attention", "vision", None)  # among the tokens of an image alone
    windows, bias = _read_windows(config, variant.window), config.get_bool("attention_bias", False)
    eps = config.get_positive_float("rms_norm_eps", 1e-6)
    spec = read_decoder_spec(
        config,
        architecture_name=variant.architecture_name,
        model_type=variant.model_type,
        windows=windows,
        num_kv_heads=4,
        head_dim=256,
        activation_key="hidden_activation",
        default_activation="gelu_pytorch_tanh",
        norm={"kind": "rms_wide"},
        tie_embeddings=True,
        rope=_read_rope(config, "sliding_attention", config.get_positive_int("head_dim", 256), variant.max_positions),
        attention={"scale": 1.0, "qkv_bias": bias, "output_bias": bias, "qk_norm": "head"}
        | {"value_norm": NormSpec(eps, has_scale=False)},
        layer={"norm_place": "sandwich", "has_output_scale": True},
        decoder={
            "embedding_multiplier": config.get_positive_int("hidden_size") ** 0.5,
            "logits_softcap": read_nullable_float(config, "final_logit_softcapping", None),
        },
        default_max_positions=variant.max_positions,
        default_vocab_size=262_144,
    )
    attention, dense = spec.layers[-1].attention, spec.layers[-1].mlp
    assert isinstance(attention, AttentionSpec) and isinstance(dense, MLPSpec)
    without_window = [index for index, window in enumerate(windows) if window is None]
    full = _read_full_heads(config, attention, without_window)
    full = replace(full, rope=_read_rope(config, "full_attention", full.head_dim, variant.max_positions))
    spec = with_attention(spec, full, without_window)
    spec = with_mlps(spec, (_read_mlp(config, dense, eps),) * spec.num_layers)
    return _read_small_models_parts(config, variant, spec, dense)


def _read_small_models_parts(config: ConfigReader, variant: Variant, spec: DecoderSpec, dense: MLPSpec) -> DecoderSpec:
    """Return the spec with what E2B and E4B have: layers that read keys of others, and inputs of the layers' own."""
    first = spec.num_layers - config.get_whole_number("num_kv_shared_layers", 0)
    wide = {"hidden": 2 * dense.hidden} if config.get_bool("use_double_wide_mlp", False) else {}
    shared = [_share_keys(config, spec, index, first, wide) for index in range(first, spec.num_layers)]
    spec = replace(spec, layers=(*spec.layers[:first], *shared))
    vocab_size = config.get_positive_int("vocab_size_per_layer_input", 262_144)
    if variant.layer_input_width is None:
        config.require("hidden_size_per_layer_input", 0, None)
    elif width := config.get_whole_number("hidden_size_per_layer_input", variant.layer_input_width):
        assert dense.activation != "xielu"
        inputs = LayerInputSpec(width=width, vocab_size=vocab_size, activation=dense.activation)
        return replace(spec, layer_inputs=inputs)
    return spec


def _share_keys(config: ConfigReader, spec: DecoderSpec, index: int, first: int, wide: Mapping[str, int]) -> LayerSpec:
    """Return a layer as it is where it reads the keys of the last layer like it that is before the `first` of these."""
    layer = spec.layers[index]
    assert isinstance(layer.attention, AttentionSpec)
    owner = next((each for each in reversed(range(first)) if spec.layers[each].attention == layer.attention), None)
    if owner is None:
        raise config.unsupported(
            "num_kv_shared_layers", spec.num_layers - first, "fewer, so that each has keys to read"
        )
    mlp = layer.mlp
    if isinstance(mlp, MLPSpec):
        mlp = replace(mlp, **wide)
    elif mlp is not None and mlp.shared is not None:
        mlp = replace(mlp, shared=replace(mlp.shared, **wide))
    return replace(layer, attention=SharedKeysSpec(attention=layer.attention, layer=owner), mlp=mlp)


def _read_windows(config: ConfigReader, default_window: int) -> tuple[int | None, ...]:
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    types = ["sliding_attention" if (index + 1) % 6 else "full_attention" for index in range(num_layers)]
    types[-1] = "full_attention"
    windows = read_typed_windows(config, config.get_positive_int("sliding_window", default_window), default_types=types)
    if windows[-1] is not None:
        raise config.unsupported("layer_types", config.get("layer_types"), "'full_attention' as the last entry")
    return windows


def _read_rope(config: ConfigReader, kind: str, head_dim: int, default_max_positions: int) -> RopeSpec:
    ropes = config.get("rope_parameters", ROPES)
    if not isinstance(ropes, Mapping) or not all(isinstance(ropes.get(name), Mapping) for name in ROPES):
        raise config.unsupported("rope_parameters", ropes, f"an object for each of {' and '.join(ROPES)}")
    if unknown := ropes.keys() - ROPES.keys():
        raise config.unsupported("rope_parameters", sorted(unknown), f"nothing but {' and '.join(ROPES)}")
    reader = ConfigReader(ropes[kind], where=f"config.json, rope_parameters, {kind}")
    max_positions = config.get_positive_int("max_position_embeddings", default_max_positions)
    return read_rope_object(reader, max_positions, head_dim=head_dim)


def _read_full_heads(config: ConfigReader, attention: AttentionSpec, without_window: list[int]) -> AttentionSpec:
    """Return the attention of layers without a window with the heads that they have."""
    keys_are_values = config.get_bool("attention_k_eq_v", False)
    head_dim = config.get_positive_int("global_head_dim", 512)
    kv_heads = config.get_positive_int("num_global_key_value_heads", attention.num_kv_heads)
    if not keys_are_values:
        kv_heads = attention.num_kv_heads
    if config.has("per_layer_config"):
        own = read_layer_config(config, without_window)
        head_dim = own.get_positive_int("head_dim", attention.head_dim)
        kv_heads = own.get_positive_int("num_key_value_heads", attention.num_kv_heads)
        own.reject_unread(ignored=frozenset(), neutral_values={})
    if head_dim % 2:
        raise config.unsupported("global_head_dim", head_dim, "an even number, since positions turn pairs")
    if attention.num_heads % kv_heads:
        expected = f"a divisor of num_attention_heads, {attention.num_heads}"
        raise config.unsupported("num_global_key_value_heads", kv_heads, expected)
    return replace(attention, num_kv_heads=kv_heads, head_dim=head_dim, keys_are_values=keys_are_values)


def _read_mlp(config: ConfigReader, dense: MLPSpec, eps: float) -> MLPSpec | MoESpec:
    if not config.get_bool("enable_moe_block", False):
        config.ignore("num_experts", "top_k_experts", "moe_intermediate_size")
        return dense
    num_experts = config.get_positive_int("num_experts", maximum=MAX_EXPERTS)
    top_k = config.get_positive_int("top_k_experts", maximum=num_experts)
    assert dense.activation != "xielu"
    return MoESpec(
        num_experts=num_experts,
        hidden=config.get_positive_int("moe_intermediate_size"),
        router=RouterSpec(top_k=top_k, input_norm=NormSpec(eps), has_expert_scale=True),
        activation=dense.activation,
        shared=dense,
        has_own_norms=True,
    )


TENSORS = {
    **SANDWICH,
    "value_norm": "self_attn.v_norm",
    "output_scale": "layer_scalar",
    "router": "router.proj",
    "router_norm": "router.scale",
    "expert_scale": "router.per_expert_scale",
    "expert_gate": "experts.gate_up_proj",
    "expert_up": "experts.gate_up_proj",
    "expert_down": "experts.down_proj",
    "expert_norm": "pre_feedforward_layernorm_2",
    "expert_post_norm": "post_feedforward_layernorm_2",
    "shared_mlp_gate": "mlp.gate_proj",
    "shared_mlp_up": "mlp.up_proj",
    "shared_mlp_down": "mlp.down_proj",
    "shared_norm": "pre_feedforward_layernorm",
    "shared_post_norm": "post_feedforward_layernorm_1",
    "input_gate": "per_layer_input_gate",
    "input_projection": "per_layer_projection",
    "input_norm": "post_per_layer_input_norm",
}
TEXT = Variant("Gemma4ForCausalLM", "gemma4_text", 512, 131_072, layer_input_width=256)
UNIFIED = Variant("Gemma4UnifiedForCausalLM", "gemma4_unified_text", 1024, 262_144, layer_input_width=None)
ARCHITECTURE = DecoderFamily(partial(_read, variant=TEXT), named(TENSORS))
UNIFIED_ARCHITECTURE = DecoderFamily(partial(_read, variant=UNIFIED), named(TENSORS))
