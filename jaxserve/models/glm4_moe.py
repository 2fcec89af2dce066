"""GLM 4.5 to 4.7: a mixture as DeepSeek-V3's behind dense layers, over attention of which half of each head rotates."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_deepseek_moe, with_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    spec = read_decoder_spec(
        config,
        architecture_name="Glm4MoeForCausalLM",
        model_type="glm4_moe",
        windows=uniform_windows(config, None),
        num_kv_heads=8,
        rope_fraction=0.5,
        default_max_positions=131_072,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={
            "qkv_bias": config.get_bool("attention_bias", False),
            "qk_norm": "head" if config.get_bool("use_qk_norm", False) else "none",
        },
    )
    moe = read_deepseek_moe(config, num_experts=128, top_k=8, hidden=1408, num_shared=1, renormalize=True)
    return with_experts(spec, moe, range(config.get_whole_number("first_k_dense_replace", 1), spec.num_layers))


ARCHITECTURE = DecoderFamily(
    _read, named({**EXPERTS, **SHARED_EXPERTS}, STACKED_EXPERTS, FUSED_EXPERTS), unread=("model.layers.{}.*",)
)
