"""LFM2 and LFM2-MoE: short convolutions in most layers, attention in the others; dense blocks, or experts."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import MAX_EXPERTS, MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import (
    read_decoder_spec,
    read_layer_types,
    read_top_k,
    with_attention,
    with_mlps,
)
from jaxserve.models.family import DecoderFamily, TensorNames
from jaxserve.models.origins import Layout
from jaxserve.models.short_conv_spec import ShortConvSpec
from jaxserve.models.spec import DecoderSpec, MoESpec

NAMES: Layout = {
    **{name: f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")},
    "output": "self_attn.out_proj",
    "query_norm": "self_attn.q_layernorm",
    "key_norm": "self_attn.k_layernorm",
    **dict.fromkeys(("conv_before", "conv_after", "conv_value"), "conv.in_proj"),
    "conv_output": "conv.out_proj",
    "conv_kernel": "conv.conv.weight",
    "conv_bias": "conv.conv.bias",
    **{"gate": "feed_forward.w1", "up": "feed_forward.w3", "down": "feed_forward.w2"},
    "attention_norm": "operator_norm",
    "mlp_norm": "ffn_norm",
    "router": "feed_forward.gate",
    "correction_bias": "feed_forward.expert_bias",
    "expert_gate": "feed_forward.experts.{}.w1.weight",
    "expert_up": "feed_forward.experts.{}.w3.weight",
    "expert_down": "feed_forward.experts.{}.w2.weight",
}
FUSED: Layout = NAMES | {
    **dict.fromkeys(("expert_gate", "expert_up"), "feed_forward.experts.gate_up_proj"),
    "expert_down": "feed_forward.experts.down_proj",
}


def _read_layers(
    config: ConfigReader, name: str, model_type: str, default_types: list[str], hidden: int
) -> DecoderSpec:
    num_layers, width = len(default_types), config.get_positive_int("hidden_size")
    types = read_layer_types(config, ("conv", "full_attention"), default_types)
    config.require("hidden_act", "silu", None)
    spec = read_decoder_spec(
        config,
        architecture_name=name,
        model_type=model_type,
        windows=(None,) * num_layers,
        num_kv_heads=8,
        default_theta=1_000_000.0,
        default_max_positions=128_000,
        default_vocab_size=65_536,
        tie_embeddings=config.get_bool("tie_embedding", True),
        norm={"eps": config.get_positive_float("norm_eps", 1e-5)},
        attention={"qk_norm": "head"},
        mlp={"hidden": hidden},
    )
    kernel_size, bias = config.get_positive_int("conv_L_cache", 3), config.get_bool("conv_bias", False)
    if kernel_size < 2:
        raise config.unsupported("conv_L_cache", kernel_size, "2 or more")
    conv = ShortConvSpec(channels=width, kernel_size=kernel_size, bias=bias)
    return with_attention(spec, conv, [index for index, kind in enumerate(types) if kind == "conv"])


def _read(config: ConfigReader) -> DecoderSpec:
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    width, attended = config.get_positive_int("hidden_size"), config.get("full_attn_idxs", list(range(num_layers)))
    types = ["full_attention" if index in attended else "conv" for index in range(num_layers)]
    for key in ("block_dim", "conv_dim", "conv_dim_out"):
        config.require(key, width, None)
    for key in ("block_use_swiglu", "use_pos_enc"):
        config.require(key, True, None)
    for key in ("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init"):
        config.get(key, None)
    config.require("block_norm_eps", config.get("norm_eps", 1e-5), None)
    config.require("num_heads", config.get("num_attention_heads"), None)
    config.require("theta", config.get("rope_theta", 1_000_000.0), None)
    return _read_layers(config, "Lfm2ForCausalLM", "lfm2", types, _read_hidden(config))


def _read_hidden(config: ConfigReader) -> int:
    """Return the width of feed-forward blocks: two thirds of the one given, in whole multiples, unless it is final."""
    hidden = config.get_positive_int("block_ff_dim", config.get("intermediate_size", 12_288))
    factor, multiple = config.get_positive_float("block_ffn_dim_multiplier", 1.0), config.get("block_multiple_of", 256)
    if not config.get_bool("block_auto_adjust_ff_dim", True):
        return hidden
    multiple = config.get_positive_int("block_multiple_of", multiple)
    return -(-int(factor * int(2 * hidden / 3)) // multiple) * multiple


def _read_moe(config: ConfigReader) -> DecoderSpec:
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    num_experts = config.get_positive_int("num_experts", 32, maximum=MAX_EXPERTS)
    hidden = config.get_positive_int("intermediate_size", 7168)
    spec = _read_layers(config, "Lfm2MoeForCausalLM", "lfm2_moe", ["full_attention"] * num_layers, hidden)
    moe = MoESpec(
        num_experts=num_experts,
        hidden=config.get_positive_int("moe_intermediate_size", 1792),
        router=RouterSpec(
            top_k=read_top_k(config, num_experts, 4),
            score="sigmoid",
            renormalize=config.get_bool("norm_topk_prob", True),
            scale=config.get_positive_float("routed_scaling_factor", 1.0),
            has_correction_bias=config.get_bool("use_expert_bias", True),
        ),
    )
    num_dense = config.get("num_dense_layers", 2)
    if not isinstance(num_dense, int) or isinstance(num_dense, bool) or num_dense < 0:
        raise config.unsupported("num_dense_layers", num_dense, "a whole number of at least 0")
    return with_mlps(spec, tuple(layer.mlp if index < num_dense else moe for index, layer in enumerate(spec.layers)))


_NAMES = TensorNames(layouts=(NAMES, FUSED), final_norm="model.embedding_norm")
ARCHITECTURE = DecoderFamily(_read, _NAMES)
MOE_ARCHITECTURE = DecoderFamily(_read_moe, _NAMES)
