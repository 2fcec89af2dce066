"""Mistral 7B and Nemo: Llama with fewer key heads, a free head size, and in the first release a window."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    # Absent means 4096, null means none: Mistral 7B 0.1 had the window, and transformers kept it as the default.
    is_null = config.has("sliding_window") and config.get("sliding_window", None) is None
    window = None if is_null else config.get_positive_int("sliding_window", 4096)
    return read_decoder_spec(
        config,
        architecture_name="MistralForCausalLM",
        model_type="mistral",
        windows=uniform_windows(config, window),
        num_kv_heads=8,
    )


ARCHITECTURE = DecoderFamily(_read)
