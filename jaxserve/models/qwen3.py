"""Qwen 3, dense: no biases, but a norm over every query and key head."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models import family
from jaxserve.models.keys import Keys
from jaxserve.models.spec import DecoderSpec

leaves, ignored = family.leaves, family.ignored


def spec(hf: Mapping[str, Any]) -> DecoderSpec:
    keys = Keys(hf)
    bias = keys.flag("attention_bias", False)
    return family.read(
        keys,
        name="Qwen3ForCausalLM",
        model_type="qwen3",
        windows=family.layered_windows(keys),
        num_kv_heads=32,
        head_dim=128,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=True,
    )
