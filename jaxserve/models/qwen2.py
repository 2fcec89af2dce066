"""Qwen 2 and 2.5, with Coder and Math: Llama with biases on query, key and value."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_layer_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    config.require("attention_bias", True, None)  # not a setting here: the biases are always there
    return read_decoder_spec(
        config,
        architecture_name="Qwen2ForCausalLM",
        model_type="qwen2",
        windows=read_layer_windows(config),
        num_kv_heads=32,
        attention={"qkv_bias": True},
    )


ARCHITECTURE = DecoderFamily(_read)
