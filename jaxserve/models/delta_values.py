"""Decoders with the gated delta rule from the keys of config.json, and their tensors: Qwen3-Next, Qwen 3.5 and 3.6."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_kernel_size, read_layers_of, with_attention
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERT, STACKED_EXPERTS, TensorNames, named
from jaxserve.models.origins import BY_HEAD, Layout
from jaxserve.models.rope_config import read_rope
from jaxserve.models.spec import DecoderSpec

MULTIMODAL_ROPE = frozenset({"mrope_section", "mrope_interleaved"})  # all three positions of text are the same

GATED_DELTA: Layout = {
    "query": "self_attn.q_proj" + BY_HEAD,
    "output_gate": "self_attn.q_proj" + BY_HEAD,
    "delta_output": "linear_attn.out_proj",
    "delta_conv": "linear_attn.conv1d.weight",
    "delta_log_a": "linear_attn.A_log",
    "delta_bias": "linear_attn.dt_bias",
    "delta_norm": "linear_attn.norm.weight",
}


def gated_delta_names(projections: Layout) -> TensorNames:
    """Return the names of tensors, of which those of the delta rule's projections differ between architectures."""
    return named({**GATED_DELTA, **projections, **EXPERTS, **SHARED_EXPERT}, STACKED_EXPERTS, FUSED_EXPERTS)


def read_gated_delta(
    config: ConfigReader,
    *,
    architecture_name: str,
    model_type: str,
    num_kv_heads: int,
    mlp: Mapping[str, Any] | None = None,
) -> DecoderSpec:
    """Return the spec of a decoder with the gated delta rule in most layers, and dense feed-forward blocks.

    The arguments are those of read_decoder_spec.
    """
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    every, bias = config.get_positive_int("full_attention_interval", 4), config.get_bool("attention_bias", False)
    default_types = ["full_attention" if (i + 1) % every == 0 else "linear_attention" for i in range(num_layers)]
    recurrent = read_layers_of(config, ("linear_attention",), ("full_attention",), default_types)
    head_dim = config.get_positive_int("head_dim", 256)
    max_positions = config.get_positive_int("max_position_embeddings", 32_768)
    spec = read_decoder_spec(
        config,
        architecture_name=architecture_name,
        model_type=model_type,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope=read_rope(config, max_positions, head_dim=head_dim, default_fraction=0.25, ignored=MULTIMODAL_ROPE),
        default_max_positions=max_positions,
        norm={"kind": "rms_plus_one"},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head", "has_output_gate": True},
        mlp=mlp,
    )
    return with_attention(spec, _read_delta(config), recurrent)


def _read_delta(config: ConfigReader) -> GatedDeltaSpec:
    key_heads = config.get_positive_int("linear_num_key_heads", 16)
    value_heads = config.get_positive_int("linear_num_value_heads", 32)
    if value_heads % key_heads:
        raise config.unsupported("linear_num_value_heads", value_heads, f"a multiple of {key_heads} key heads")
    return GatedDeltaSpec(
        num_key_heads=key_heads,
        num_value_heads=value_heads,
        key_dim=config.get_positive_int("linear_key_head_dim", 128),
        value_dim=config.get_positive_int("linear_value_head_dim", 128),
        kernel_size=read_kernel_size(config, "linear_conv_kernel_dim", 4),
    )
