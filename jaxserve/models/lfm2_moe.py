"""LFM2 with experts: short convolutions and attention, and experts by sigmoids behind the first, dense layers."""

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import MAX_EXPERTS, MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_top_k
from jaxserve.models.family import FUSED_EXPERTS, DecoderFamily
from jaxserve.models.mixtral import EXPERTS
from jaxserve.models.moe_values import mix_experts, with_experts
from jaxserve.models.origins import rename_stems
from jaxserve.models.short_conv_values import read_short_conv, short_conv_names
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    spec = read_short_conv(
        config,
        architecture_name="Lfm2MoeForCausalLM",
        model_type="lfm2_moe",
        default_types=["full_attention"] * num_layers,
        hidden=config.get_positive_int("intermediate_size", 7168),
    )
    num_experts = config.get_positive_int("num_experts", 32, maximum=MAX_EXPERTS)
    router = RouterSpec(
        top_k=read_top_k(config, num_experts, 4),
        score="sigmoid",
        renormalize=config.get_bool("norm_topk_prob", True),
        scale=config.get_positive_float("routed_scaling_factor", 1.0),
        has_correction_bias=config.get_bool("use_expert_bias", True),
    )
    hidden = config.get_positive_int("moe_intermediate_size", 1792)
    moe = mix_experts(config, router, num_experts=num_experts, hidden=hidden)
    return with_experts(spec, moe, range(config.get_whole_number("num_dense_layers", 2), num_layers))


NAMES = rename_stems(EXPERTS, "block_sparse_moe.", "feed_forward.") | {"correction_bias": "feed_forward.expert_bias"}
IN_MEMORY = rename_stems(FUSED_EXPERTS, "mlp.", "feed_forward.")
ARCHITECTURE = DecoderFamily(_read, short_conv_names(NAMES, IN_MEMORY))
