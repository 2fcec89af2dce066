"""Youtu-LLM: DeepSeek-V3's attention with dense feed-forward blocks."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import LATENT, DecoderFamily, named
from jaxserve.models.latent_values import read_latent_attention
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    config.get("embedding_initializer_range", None)  # of training
    config.require("mlp_bias", False, None)
    max_positions = config.get_positive_int("max_position_embeddings", 131_072)
    is_interleaved = config.get_bool("rope_interleave", True)
    return read_decoder_spec(
        config,
        architecture_name="YoutuForCausalLM",
        model_type="youtu",
        windows=uniform_windows(config, None),
        default_max_positions=max_positions,
        tie_embeddings=True,
        attention=read_latent_attention(config, max_positions, is_interleaved=is_interleaved),
    )


ARCHITECTURE = DecoderFamily(_read, named(LATENT))
