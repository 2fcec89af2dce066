"""Llama 2 and 3.x, and all that call themselves LlamaForCausalLM: SmolLM2, TinyLlama, Yi, MiniMind, ..."""

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
        name="LlamaForCausalLM",
        model_type="llama",
        windows=family.uniform_windows(keys, None),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=keys.flag("mlp_bias", False),
    )
