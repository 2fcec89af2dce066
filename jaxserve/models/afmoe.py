"""AFMoE (Arcee Trinity): gated heads, norms around the blocks, rotation in windows alone, and corrected experts."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import (
    read_activation,
    read_decoder_spec,
    read_top_k,
    read_typed_windows,
    without_ropes_in_full_layers,
)
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec, MLPSpec, MoESpec

RELICS = {"n_group": 1, "topk_group": 1, "num_expert_groups": 1, "num_limited_groups": 1} | {
    "route_norm": True,
    "score_func": "sigmoid",
}
"""Keys of published configs that transformers does not read, with the only values that fit."""


def _read(config: ConfigReader) -> DecoderSpec:
    for name, value in RELICS.items():
        config.require(name, value, None)
    for name in ("load_balance_coeff", "use_grouped_mm"):
        config.get(name, None)
    window, every = (
        config.get_positive_int(*key) for key in (("sliding_window", 1024), ("global_attn_every_n_layers", 4))
    )
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
    hidden, activation = config.get_positive_int("moe_intermediate_size", 1408), read_activation(config)
    num_shared = config.get_positive_int("num_shared_experts", 2)
    moe = MoESpec(
        num_experts=num_experts,
        hidden=hidden,
        router=RouterSpec(
            top_k=read_top_k(config, num_experts, 6),
            score="sigmoid",
            scale=config.get_positive_float("route_scale", 1.0),
            has_correction_bias=True,
        ),
        activation=activation,
        shared=MLPSpec(hidden=num_shared * hidden, activation=activation),
    )
    sparse = range(config.get_whole_number("num_dense_layers", 1), spec.num_layers)
    return with_experts(without_ropes_in_full_layers(spec), moe, sparse)


OWN = {
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_mlp_layernorm",
    "mlp_post_norm": "post_mlp_layernorm",
    "output_gate": "self_attn.gate_proj",
    "correction_bias": "mlp.expert_bias",
}
ROUTER = {"router": "mlp.router.gate"}
NAMES = named(
    {**EXPERTS, **SHARED_EXPERTS, **OWN, **ROUTER}, {**STACKED_EXPERTS, **ROUTER}, {**FUSED_EXPERTS, **ROUTER}
)
ARCHITECTURE = DecoderFamily(_read, NAMES)
