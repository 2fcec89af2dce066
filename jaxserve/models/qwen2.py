"""Qwen 2 and 2.5, with Coder and Math: Llama with biases on query, key and value."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models import family
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.spec import DecoderSpec

params, ignored_tensors = family.params, family.ignored_tensors


def spec(hf_config: Mapping[str, Any]) -> DecoderSpec:
    config = ConfigReader(hf_config)
    config.require("attention_bias", True, None)  # not a setting here: the biases are always there
    return family.read_decoder_spec(
        config,
        architecture="Qwen2ForCausalLM",
        model_type="qwen2",
        windows=family.read_layer_windows(config),
        num_kv_heads=32,
        qkv_bias=True,
    )
