"""Qwen 3 with experts: Qwen 3's attention, and a mixture of experts in all layers but those that the config names."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_num_experts, read_qwen_experts, read_sparse_layers, with_experts
from jaxserve.models.spec import DecoderSpec


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
    num_experts = read_num_experts(config, "num_experts", "num_local_experts", default=128)
    renormalize = config.get_bool("norm_topk_prob", False)
    moe = read_qwen_experts(config, num_experts=num_experts, top_k=8, hidden=768, renormalize=renormalize)
    return with_experts(spec, moe, read_sparse_layers(config, spec.num_layers))


ARCHITECTURE = DecoderFamily(_read, named(EXPERTS, STACKED_EXPERTS, FUSED_EXPERTS))
