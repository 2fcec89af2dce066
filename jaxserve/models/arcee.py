"""Arcee (AFM): Llama with a feed-forward block without a gate, and squares of what is above zero."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    return read_decoder_spec(
        config,
        architecture_name="ArceeForCausalLM",
        model_type="arcee",
        windows=uniform_windows(config, None),
        default_activation="relu2",
        default_max_positions=4096,
        default_vocab_size=32_000,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"is_gated": False, "bias": config.get_bool("mlp_bias", False)},
    )


ARCHITECTURE = DecoderFamily(_read)
