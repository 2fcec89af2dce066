"""Qwen3-Next: the gated delta rule in most layers, gated attention in the others, experts beside a shared one."""

from collections.abc import Mapping
from typing import Any

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import MAX_EXPERTS, MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import (
    read_activation,
    read_decoder_spec,
    read_layer_types,
    read_top_k,
    with_attention,
    with_mlps,
)
from jaxserve.models.delta_spec import GatedDeltaSpec
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, STACKED_EXPERTS, DecoderFamily, TensorNames, named
from jaxserve.models.origins import BY_HEAD, Layout
from jaxserve.models.rope_config import read_rope
from jaxserve.models.spec import DecoderSpec, MLPSpec, MoESpec

MULTIMODAL_ROPE = frozenset({"mrope_section", "mrope_interleaved"})  # all three positions of text are the same

NAMES: Layout = {
    "query": "self_attn.q_proj" + BY_HEAD,
    "output_gate": "self_attn.q_proj" + BY_HEAD,
    "delta_output": "linear_attn.out_proj",
    "delta_conv": "linear_attn.conv1d.weight",
    "delta_log_a": "linear_attn.A_log",
    "delta_bias": "linear_attn.dt_bias",
    "delta_norm": "linear_attn.norm.weight",
    "shared_gate": "mlp.shared_expert_gate",
    **{f"shared_mlp_{name}": f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")},
}
FUSED_BY_HEAD: Layout = {
    **dict.fromkeys(("delta_query", "delta_key", "delta_value", "delta_gate"), "linear_attn.in_proj_qkvz" + BY_HEAD),
    **dict.fromkeys(("delta_rate", "delta_decay"), "linear_attn.in_proj_ba" + BY_HEAD),
}


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
    types = read_layer_types(config, ("linear_attention", "full_attention"), default_types)
    head_dim = config.get_positive_int("head_dim", 256)
    max_positions = config.get_positive_int("max_position_embeddings", 32_768)
    spec = read_decoder_spec(
        config,
        architecture_name=architecture_name,
        model_type=model_type,
        windows=(None,) * num_layers,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rope=read_rope(config, max_positions, head_dim=head_dim, default_fraction=0.25, ignored=MULTIMODAL_ROPE),
        default_max_positions=max_positions,
        norm={"kind": "rms_plus_one"},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head", "has_output_gate": True},
        mlp=mlp,
    )
    key_heads = config.get_positive_int("linear_num_key_heads", 16)
    value_heads = config.get_positive_int("linear_num_value_heads", 32)
    if value_heads % key_heads:
        raise config.unsupported("linear_num_value_heads", value_heads, f"a multiple of {key_heads} key heads")
    delta = GatedDeltaSpec(
        num_key_heads=key_heads,
        num_value_heads=value_heads,
        key_dim=config.get_positive_int("linear_key_head_dim", 128),
        value_dim=config.get_positive_int("linear_value_head_dim", 128),
        kernel_size=config.get_positive_int("linear_conv_kernel_dim", 4),
    )
    return with_attention(spec, delta, [index for index, kind in enumerate(types) if kind == "linear_attention"])


def read_experts(config: ConfigReader, num_experts: int, top_k: int, *, renormalize: bool) -> MoESpec:
    """Return experts beside a shared block with a gate; num_experts and top_k hold where the config says nothing."""
    num_experts = config.get_positive_int("num_experts", num_experts, maximum=MAX_EXPERTS)
    activation = read_activation(config)
    return MoESpec(
        num_experts=num_experts,
        hidden=config.get_positive_int("moe_intermediate_size", 512),
        router=RouterSpec(top_k=read_top_k(config, num_experts, top_k), renormalize=renormalize),
        activation=activation,
        shared=MLPSpec(hidden=config.get_positive_int("shared_expert_intermediate_size", 512), activation=activation),
        has_shared_gate=True,
    )


def _read(config: ConfigReader) -> DecoderSpec:
    spec = read_gated_delta(config, architecture_name="Qwen3NextForCausalLM", model_type="qwen3_next", num_kv_heads=2)
    moe = read_experts(config, 512, 10, renormalize=config.get_bool("norm_topk_prob", True))
    dense, step = config.get("mlp_only_layers", []), config.get_positive_int("decoder_sparse_step", 1)
    is_sparse = [layer not in dense and (layer + 1) % step == 0 for layer in range(spec.num_layers)]
    return with_mlps(
        spec, tuple(moe if sparse else layer.mlp for sparse, layer in zip(is_sparse, spec.layers, strict=True))
    )


def gated_delta_names(projections: Layout) -> TensorNames:
    """Return the names of tensors, of which those of the delta rule's projections differ between architectures."""
    return named({**NAMES, **projections, **EXPERTS}, STACKED_EXPERTS, FUSED_EXPERTS)


ARCHITECTURE = DecoderFamily(_read, gated_delta_names(FUSED_BY_HEAD), unread=("mtp.*",))
