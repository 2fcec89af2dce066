"""FlexOlmo: OLMo 2 with a mixture of experts in every layer."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import with_experts
from jaxserve.models.olmo2 import NORMS_BEHIND
from jaxserve.models.olmoe import read_olmo_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    spec = read_decoder_spec(
        config,
        architecture_name="FlexOlmoForCausalLM",
        model_type="flex_olmo",
        windows=uniform_windows(config, None),
        default_theta=500_000.0,
        default_max_positions=4096,
        norm={"kind": "rms_wide", "eps": config.get_positive_float("rms_norm_eps", 1e-6)},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "full"},
        layer={"norm_place": "post"},
    )
    return with_experts(spec, read_olmo_experts(config, num_experts=7, top_k=5), range(spec.num_layers))


ARCHITECTURE = DecoderFamily(_read, named({**EXPERTS, **NORMS_BEHIND}, STACKED_EXPERTS, FUSED_EXPERTS))
