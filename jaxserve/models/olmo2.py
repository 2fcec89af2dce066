"""OLMo 2: norms behind the blocks instead of before, and a norm over all heads of queries and of keys."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.spec import DecoderSpec

NORMS_BEHIND = {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"}


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    return read_decoder_spec(
        config,
        architecture_name="Olmo2ForCausalLM",
        model_type="olmo2",
        windows=uniform_windows(config, None),
        norm={"kind": "rms_wide", "eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "full"},
        layer={"norm_place": "post"},
    )


ARCHITECTURE = DecoderFamily(_read, named(NORMS_BEHIND))
