"""Llama 2 and 3.x, and all that call themselves LlamaForCausalLM: SmolLM2, TinyLlama, Yi, MiniMind, …"""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    return read_decoder_spec(
        config,
        architecture_name="LlamaForCausalLM",
        model_type="llama",
        windows=uniform_windows(config, None),
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"bias": config.get_bool("mlp_bias", False)},
    )


ARCHITECTURE = DecoderFamily(_read)
