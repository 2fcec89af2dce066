"""Qwen 3, dense: no biases, but a norm over every query and key head."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_layer_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    return read_decoder_spec(
        config,
        architecture_name="Qwen3ForCausalLM",
        model_type="qwen3",
        windows=read_layer_windows(config),
        num_kv_heads=32,
        head_dim=128,
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head"},
    )


ARCHITECTURE = DecoderFamily(_read)
