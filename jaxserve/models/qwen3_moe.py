"""Qwen 3 with experts: Qwen 3's attention, and a mixture of experts in all layers but those that the config names."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import MAX_EXPERTS, ConfigReader
from jaxserve.models.config_values import read_activation, read_decoder_spec, read_top_k, uniform_windows, with_mlps
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.spec import DecoderSpec, MoESpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    size = config.get_positive_int("sliding_window", 4096) if config.get("sliding_window", 4096) else None
    window = size if config.get_bool("use_sliding_window", False) else None
    spec = read_decoder_spec(
        config,
        architecture_name="Qwen3MoeForCausalLM",
        model_type="qwen3_moe",
        windows=uniform_windows(config, window),
        num_kv_heads=4,
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head"},
    )
    config.require("max_window_layers", config.get("max_window_layers", None))  # windows hold in all layers or in none
    names = ("num_experts", "num_local_experts")
    counts = {
        name: config.get_positive_int(name, maximum=MAX_EXPERTS) for name in names if config.get(name, None) is not None
    }
    if len(set(counts.values())) > 1:
        raise config.unsupported("num_experts", counts["num_experts"], f"{counts['num_local_experts']}, as beside it")
    num_experts = next(iter(counts.values()), 128)
    moe = MoESpec(
        num_experts=num_experts,
        hidden=config.get_positive_int("moe_intermediate_size", 768),
        router=RouterSpec(
            top_k=read_top_k(config, num_experts, 8),
            renormalize=config.get_bool("norm_topk_prob", False),
        ),
        activation=read_activation(config),
    )
    dense, step = config.get("mlp_only_layers", []), config.get_positive_int("decoder_sparse_step", 1)
    is_sparse = [layer not in dense and (layer + 1) % step == 0 for layer in range(spec.num_layers)]
    return with_mlps(
        spec, tuple(moe if sparse else layer.mlp for sparse, layer in zip(is_sparse, spec.layers, strict=True))
    )


ARCHITECTURE = DecoderFamily(_read, named(EXPERTS, STACKED_EXPERTS, FUSED_EXPERTS))
