"""Cohere (Command R): LayerNorm without biases, attention beside the feed-forward block, scaled logits.

A norm over each head with numbers of its own (use_qk_norm, Command R+) is refused.
"""

from typing import Any

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def read_cohere(config: ConfigReader, **names_and_windows: Any) -> DecoderSpec:
    """Return the spec of Cohere, or of Cohere 2 before its full layers lose their rotation."""
    bias = config.get_bool("attention_bias", False)
    return read_decoder_spec(
        config,
        **names_and_windows,
        is_rope_interleaved=True,
        default_max_positions=8192,
        default_vocab_size=256_000,
        tie_embeddings=True,
        norm={"kind": "layer", "eps": config.get_positive_float("layer_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        layer={"is_parallel": True},
        decoder={"logits_multiplier": config.get_positive_float("logit_scale", 0.0625)},
    )


def _read(config: ConfigReader) -> DecoderSpec:
    config.require("use_qk_norm", False, None)
    windows = uniform_windows(config, None)
    return read_cohere(config, architecture_name="CohereForCausalLM", model_type="cohere", windows=windows)


ARCHITECTURE = DecoderFamily(_read)
