"""MiniMax M2: norms over all heads, a part of each head rotates, and sigmoids choose among many small experts."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_top_k, uniform_windows
from jaxserve.models.family import FUSED_EXPERTS, DecoderFamily, named
from jaxserve.models.mixtral import EXPERTS
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec

RELICS = {
    "attn_type_list": None,
    "qk_norm_type": "per_layer",
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "use_qk_norm": True,
    "use_routing_bias": True,
}
"""Keys of published configs that transformers does not read, with the only values that fit."""
UNUSED = (
    *("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta", "use_mtp"),
    *("mlp_intermediate_size", "mtp_transformer_layers", "num_mtp_modules", "shared_moe_mode"),
)


def _read(config: ConfigReader) -> DecoderSpec:
    num_layers = config.get_positive_int("num_hidden_layers")
    config.require_each(RELICS | {"attn_type_list": [1] * num_layers})
    config.ignore(*UNUSED)
    head_dim = config.get_positive_int("head_dim", 128)
    fraction = config.get_positive_int("rotary_dim", head_dim, maximum=head_dim) / head_dim
    spec = read_decoder_spec(
        config,
        architecture_name="MiniMaxM2ForCausalLM",
        model_type="minimax_m2",
        windows=uniform_windows(config, None),
        num_kv_heads=8,
        head_dim=head_dim,
        default_theta=5_000_000.0,
        rope_fraction=fraction,
        default_max_positions=196_608,
        attention={"qk_norm": "full"},
    )
    num_experts = read_num_experts(config, "num_local_experts", "num_experts", default=256)
    router = RouterSpec(top_k=read_top_k(config, num_experts, 8), score="sigmoid", has_correction_bias=True)
    hidden = config.get_positive_int("intermediate_size")
    moe = mix_experts(config, router, num_experts=num_experts, hidden=hidden)
    return with_experts(spec, moe, range(num_layers))


CORRECTION = {"correction_bias": "block_sparse_moe.e_score_correction_bias"}
IN_MEMORY = {**FUSED_EXPERTS, "correction_bias": "mlp.e_score_correction_bias"}
ARCHITECTURE = DecoderFamily(_read, named(EXPERTS | CORRECTION, IN_MEMORY))
