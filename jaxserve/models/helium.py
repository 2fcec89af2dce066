"""Helium: Llama whose heads turn neighbours together, with norms that are cast behind their scale."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    return read_decoder_spec(
        config,
        architecture_name="HeliumForCausalLM",
        model_type="helium",
        windows=uniform_windows(config, None),
        num_kv_heads=20,
        head_dim=128,
        is_rope_interleaved=True,
        default_max_positions=4096,
        default_vocab_size=48_000,
        norm={"kind": "rms_wide", "eps": config.get_positive_float("rms_norm_eps", 1e-8)},
        attention={"qkv_bias": config.get_bool("attention_bias", False)},
        mlp={"bias": config.get_bool("mlp_bias", False)},
    )


ARCHITECTURE = DecoderFamily(_read)
