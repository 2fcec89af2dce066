"""ERNIE 4.5, dense: Llama whose heads turn neighbours together, with biases everywhere or nowhere."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("use_bias", False)
    return read_decoder_spec(
        config,
        architecture_name="Ernie4_5ForCausalLM",
        model_type="ernie4_5",
        windows=uniform_windows(config, None),
        num_kv_heads=2,
        head_dim=128,
        default_theta=500_000.0,
        is_rope_interleaved=True,
        default_max_positions=131_072,
        default_vocab_size=103_424,
        tie_embeddings=True,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"bias": bias},
    )


ARCHITECTURE = DecoderFamily(_read)
