"""OLMo 1: LayerNorm without weights, and queries, keys and values that are limited."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias, has_limit = config.get_bool("attention_bias", False), config.get("clip_qkv", None) is not None
    return read_decoder_spec(
        config,
        architecture_name="OlmoForCausalLM",
        model_type="olmo",
        windows=uniform_windows(config, None),
        default_max_positions=2048,
        default_vocab_size=50_304,
        norm={"kind": "layer", "has_scale": False, "eps": 1e-5},
        attention={
            "qkv_bias": bias,
            "output_bias": bias,
            "qkv_clip": config.get_positive_float("clip_qkv") if has_limit else None,
        },
    )


ARCHITECTURE = DecoderFamily(_read)
