"""Cohere (Command R): LayerNorm without biases, attention beside the feed-forward block, scaled logits.

Command R+ has a norm over each query and key head, with numbers of its own.
"""

from typing import Any

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def read_cohere(config: ConfigReader, *, has_head_norms: bool = False, **names_and_windows: Any) -> DecoderSpec:
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
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "each" if has_head_norms else "none"},
        layer={"is_parallel": True},
        decoder={"logits_multiplier": config.get_positive_float("logit_scale", 0.0625)},
    )


def _read(config: ConfigReader) -> DecoderSpec:
    return read_cohere(
        config,
        has_head_norms=config.get_bool("use_qk_norm", False),
        architecture_name="CohereForCausalLM",
        model_type="cohere",
        windows=uniform_windows(config, None),
    )


ARCHITECTURE = DecoderFamily(_read)
