"""Nemotron 3 and 4, Minitron: LayerNorm of 1 + scale, squares of what is above zero, half of each head rotates."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    return read_decoder_spec(
        config,
        architecture_name="NemotronForCausalLM",
        model_type="nemotron",
        windows=uniform_windows(config, None),
        default_activation="relu2",
        rope_fraction=0.5,
        default_max_positions=4096,
        default_vocab_size=256_000,
        norm={"kind": "layer_plus_one", "has_bias": True, "eps": config.get_positive_float("norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"is_gated": False, "bias": config.get_bool("mlp_bias", False)},
    )


ARCHITECTURE = DecoderFamily(_read)
