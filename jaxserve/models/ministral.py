"""Ministral (8B of 2024): Mistral with windows in the layers that layer_types names."""

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_typed_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    is_null = config.has("sliding_window") and config.get("sliding_window", None) is None
    window = None if is_null else config.get_positive_int("sliding_window", 4096)
    layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    types = ["full_attention" if window is None else "sliding_attention"] * layers
    return read_decoder_spec(
        config,
        architecture_name="MinistralForCausalLM",
        model_type="ministral",
        windows=read_typed_windows(config, window, default_types=types),
        num_kv_heads=8,
        default_max_positions=131_072,
        default_vocab_size=32_000,
    )


ARCHITECTURE = DecoderFamily(_read)
