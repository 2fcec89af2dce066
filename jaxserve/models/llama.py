"""Llama 2 and 3.x, and all that call themselves LlamaForCausalLM: SmolLM2, TinyLlama, Yi, MiniMind, ..."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models import family
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.spec import DecoderSpec

params, ignored_tensors = family.params, family.ignored_tensors


def spec(hf_config: Mapping[str, Any]) -> DecoderSpec:
    config = ConfigReader(hf_config)
    bias = config.get_bool("attention_bias", False)
    return family.read_decoder_spec(
        config,
        architecture="LlamaForCausalLM",
        model_type="llama",
        windows=family.uniform_windows(config, None),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=config.get_bool("mlp_bias", False),
    )
