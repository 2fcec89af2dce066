"""Jais 2: LayerNorm with biases, biases on all projections, squares of what is above zero without a gate."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", True)
    return read_decoder_spec(
        config,
        architecture_name="Jais2ForCausalLM",
        model_type="jais2",
        windows=uniform_windows(config, None),
        default_activation="relu2",
        default_max_positions=8192,
        default_vocab_size=150_272,
        norm={"kind": "layer", "has_bias": True, "eps": config.get_positive_float("layer_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"is_gated": False, "bias": config.get_bool("mlp_bias", True)},
    )


ARCHITECTURE = DecoderFamily(_read)
