"""DeepSeek V3 and R1, and Kimi K2 under their names: latent attention, and a mixture of experts behind dense layers."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import (
    EXPERTS,
    FUSED_EXPERTS,
    LATENT,
    SHARED_EXPERTS,
    STACKED_EXPERTS,
    DecoderFamily,
    named,
)
from jaxserve.models.latent_values import read_latent_attention
from jaxserve.models.moe_values import read_deepseek_moe, with_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    config.require("model_type", "deepseek_v3", "kimi_k2")
    max_positions = config.get_positive_int("max_position_embeddings", 4096)
    is_interleaved = config.get_bool("rope_interleave", True)
    spec = read_decoder_spec(
        config,
        architecture_name="DeepseekV3ForCausalLM",
        model_type=config.get("model_type", "deepseek_v3"),
        windows=uniform_windows(config, None),
        default_max_positions=max_positions,
        attention=read_latent_attention(config, max_positions, is_interleaved=is_interleaved),
    )
    moe = read_deepseek_moe(
        config,
        num_experts=256,
        top_k=8,
        hidden=2048,
        num_shared=1,
        renormalize=True,
        scale=2.5,
        num_groups=8,
        top_groups=4,
    )
    return with_experts(spec, moe, range(config.get_whole_number("first_k_dense_replace", 3), spec.num_layers))


NAMES = named({**EXPERTS, **SHARED_EXPERTS, **LATENT}, STACKED_EXPERTS, FUSED_EXPERTS)
ARCHITECTURE = DecoderFamily(_read, NAMES, unread=("model.layers.{}.*",))
