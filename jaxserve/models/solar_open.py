"""Solar Open: Llama's attention, and a mixture as DeepSeek-V3's in every layer."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_deepseek_moe, with_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    config.require("first_k_dense_replace", 0, None)
    config.require("use_qk_norm", False, None)
    config.get("intermediate_size", None)  # of dense layers, which are none
    moe = read_deepseek_moe(config, num_experts=128, top_k=8, hidden=1280, num_shared=1, renormalize=True)
    spec = read_decoder_spec(
        config,
        architecture_name="SolarOpenForCausalLM",
        model_type="solar_open",
        windows=uniform_windows(config, None),
        num_kv_heads=8,
        head_dim=128,
        default_theta=1e6,
        default_max_positions=131_072,
        default_vocab_size=196_608,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": config.get_bool("attention_bias", False)},
        mlp={"hidden": moe.hidden},
    )
    return with_experts(spec, moe, range(spec.num_layers))


ARCHITECTURE = DecoderFamily(_read, named({**EXPERTS, **SHARED_EXPERTS}, STACKED_EXPERTS, FUSED_EXPERTS))
