"""Ministral 3, and the text part of its vision models: Mistral with YaRN and queries scaled by their position."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models.attention_spec import QueryTemperature
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_window, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.rope_config import read_rope_object
from jaxserve.models.spec import DecoderSpec

DEFAULT_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def _read(config: ConfigReader) -> DecoderSpec:
    window = read_window(config)
    max_positions = config.get_positive_int("max_position_embeddings", 262_144)
    values: Mapping[str, Any] = config.get("rope_parameters", DEFAULT_ROPE)
    if not isinstance(values, Mapping):
        raise config.unsupported("rope_parameters", values, "an object or null")
    rope = ConfigReader(values, where="config.json, rope_parameters")
    rope.require("max_position_embeddings", max_positions, None)
    temperature = None
    if rope.get("llama_4_scaling_beta") != 0:
        temperature = QueryTemperature(
            scale=rope.get_positive_float("llama_4_scaling_beta"),
            interval=rope.get_positive_int("original_max_position_embeddings", max_positions),
        )
    head_dim = config.get_positive_int("head_dim", 128)
    return read_decoder_spec(
        config,
        architecture_name="Ministral3ForCausalLM",
        model_type="ministral3",
        windows=uniform_windows(config, window),
        num_kv_heads=8,
        head_dim=128,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        rope=read_rope_object(rope, max_positions, head_dim=head_dim),
        attention={"temperature": temperature},
        default_max_positions=262_144,
    )


ARCHITECTURE = DecoderFamily(_read)
