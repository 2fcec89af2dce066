"""Mixtral: Mistral with a mixture of experts in every layer."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import MAX_EXPERTS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_top_k, read_window, uniform_windows
from jaxserve.models.family import FUSED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import mix_experts, with_experts
from jaxserve.models.spec import DecoderSpec

EXPERTS = {
    "router": "block_sparse_moe.gate",
    "expert_gate": "block_sparse_moe.experts.{}.w1.weight",
    "expert_up": "block_sparse_moe.experts.{}.w3.weight",
    "expert_down": "block_sparse_moe.experts.{}.w2.weight",
}


def _read(config: ConfigReader) -> DecoderSpec:
    window = read_window(config)
    spec = read_decoder_spec(
        config,
        architecture_name="MixtralForCausalLM",
        model_type="mixtral",
        windows=uniform_windows(config, window),
        num_kv_heads=8,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        default_theta=1_000_000.0,
    )
    num_experts = config.get_positive_int("num_local_experts", 8, maximum=MAX_EXPERTS)
    router = RouterSpec(top_k=read_top_k(config, num_experts, 2))
    hidden = config.get_positive_int("intermediate_size")
    moe = mix_experts(config, router, num_experts=num_experts, hidden=hidden)
    return with_experts(spec, moe, range(spec.num_layers))


ARCHITECTURE = DecoderFamily(_read, named(EXPERTS, STACKED_EXPERTS, FUSED_EXPERTS))
