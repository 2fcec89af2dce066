"""Qwen 3, dense: no biases, but a norm over every query and key head."""

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
        architecture="Qwen3ForCausalLM",
        model_type="qwen3",
        windows=family.read_layer_windows(config),
        num_kv_heads=32,
        head_dim=128,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
    )
