"""Qwen 2 and 2.5, with Coder and Math: Llama with biases on query, key and value."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models import family
from jaxserve.models.keys import Keys
from jaxserve.models.spec import DecoderSpec

leaves, ignored = family.leaves, family.ignored


def spec(hf: Mapping[str, Any]) -> DecoderSpec:
    keys = Keys(hf)
    keys.must_be("attention_bias", True, None)  # not a setting here: the biases are always there
    return family.read(
        keys,
        name="Qwen2ForCausalLM",
        model_type="qwen2",
        windows=family.layered_windows(keys),
        num_kv_heads=32,
        qkv_bias=True,
    )
