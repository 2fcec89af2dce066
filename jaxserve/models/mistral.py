"""Mistral 7B and Nemo: Llama with fewer key heads, a free head size, and in the first release a window."""

from collections.abc import Mapping
from typing import Any

from jaxserve.models import family
from jaxserve.models.keys import Keys
from jaxserve.models.spec import DecoderSpec

leaves, ignored = family.leaves, family.ignored


def spec(hf: Mapping[str, Any]) -> DecoderSpec:
    keys = Keys(hf)
    # Absent means 4096, null means none: Mistral 7B 0.1 had the window, and transformers kept it as the default.
    is_null = keys.has("sliding_window") and keys.take("sliding_window", None) is None
    window = None if is_null else keys.count("sliding_window", 4096)
    return family.read(
        keys,
        name="MistralForCausalLM",
        model_type="mistral",
        windows=family.uniform_windows(keys, window),
        num_kv_heads=8,
    )
