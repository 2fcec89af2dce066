"""Seed-OSS: Llama with biases of queries, keys and values, and another key for that of the output."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    return read_decoder_spec(
        config,
        architecture_name="SeedOssForCausalLM",
        model_type="seed_oss",
        windows=uniform_windows(config, None),
        num_kv_heads=8,
        head_dim=128,
        default_max_positions=524_288,
        default_vocab_size=155_136,
        attention={
            "qkv_bias": config.get_bool("attention_bias", True),
            "output_bias": config.get_bool("attention_out_bias", False),
        },
        mlp={"bias": config.get_bool("mlp_bias", False)},
    )


ARCHITECTURE = DecoderFamily(_read)
