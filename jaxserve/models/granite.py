"""Granite 3, dense: Llama with multipliers for embeddings, scores, residuals and logits."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def read_granite(
    config: ConfigReader,
    architecture_name: str,
    model_type: str,
    *,
    windows: tuple[int | None, ...] | None = None,
    mlp: Mapping[str, Any] | None = None,
    attention: Mapping[str, Any] | None = None,
    **other: Any,
) -> DecoderSpec:
    """Return the spec of a Granite with these fields of its blocks, and further arguments of `read_decoder_spec`."""
    bias = config.get_bool("attention_bias", False)
    return read_decoder_spec(
        config,
        architecture_name=architecture_name,
        model_type=model_type,
        windows=windows or uniform_windows(config, None),
        **other,
        attention={
            "scale": config.get_positive_float("attention_multiplier", 1.0),
            "qkv_bias": bias,
            "output_bias": bias,
        }
        | dict(attention or {}),
        mlp=mlp,
        layer={"residual_multiplier": config.get_positive_float("residual_multiplier", 1.0)},
        decoder={
            "embedding_multiplier": config.get_positive_float("embedding_multiplier", 1.0),
            "logits_multiplier": 1 / config.get_positive_float("logits_scaling", 1.0),
        },
    )


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("mlp_bias", False)
    return read_granite(config, "GraniteForCausalLM", "granite", mlp={"bias": bias})


ARCHITECTURE = DecoderFamily(_read)
