"""AFMoE (Arcee Trinity): gated heads, norms around the blocks, rotation in windows alone, and corrected experts."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import (
    read_decoder_spec,
    read_top_k,
    read_typed_windows,
    without_ropes_in_full_layers,
)
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec

RELICS = {"n_group": 1, "topk_group": 1, "num_expert_groups": 1, "num_limited_groups": 1} | {
    "route_norm": True,
    "score_func": "sigmoid",
}
"""Keys of published configs that transformers does not read, with the only values that fit."""


def _read(config: ConfigReader) -> DecoderSpec:
    config.require_each(RELICS)
    config.ignore("load_balance_coeff", "use_grouped_mm")
    window = config.get_positive_int("sliding_window", 1024)
    every = config.get_positive_int("global_attn_every_n_layers", 4)
    width = config.get_positive_int("hidden_size")
    spec = read_decoder_spec(
        config,
        architecture_name="AfmoeForCausalLM",
        model_type="afmoe",
        windows=read_typed_windows(config, window, full_every=every),
        head_dim=128,
        default_max_positions=16_384,
        default_vocab_size=200_192,
        norm={"kind": "rms_wide", "eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qk_norm": "head", "has_output_gate": True},
        layer={"norm_place": "sandwich"},
        decoder={"embedding_multiplier": width**0.5 if config.get_bool("mup_enabled", False) else 1.0},
    )
    num_experts = read_num_experts(config, "num_experts", "num_local_experts", default=64)
    hidden = config.get_positive_int("moe_intermediate_size", 1408)
    num_shared = config.get_positive_int("num_shared_experts", 2)
    top_k, scale = read_top_k(config, num_experts, 6), config.get_positive_float("route_scale", 1.0)
    router = RouterSpec(top_k=top_k, score="sigmoid", scale=scale, has_correction_bias=True)
    moe = mix_experts(config, router, num_experts=num_experts, hidden=hidden, shared=num_shared * hidden)
    sparse = range(config.get_whole_number("num_dense_layers", 1), spec.num_layers)
    return with_experts(without_ropes_in_full_layers(spec), moe, sparse)


OWN = {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_mlp_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
    "output_gate": "self_attn.gate_proj",
    "correction_bias": "mlp.expert_bias",
    "router": "mlp.router.gate",
}
NAMES = named({**EXPERTS, **SHARED_EXPERTS, **OWN}, {**STACKED_EXPERTS, **OWN}, {**FUSED_EXPERTS, **OWN})
ARCHITECTURE = DecoderFamily(_read, NAMES)
