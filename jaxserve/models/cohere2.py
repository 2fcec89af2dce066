"""Cohere 2 (Command R7B, Command A): Cohere with windows, and rotation in the layers that have one."""

from jaxserve.models.cohere import read_cohere
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_typed_windows, without_ropes_in_full_layers
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec

RELICS = {
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_qk_norm": False,
}
"""Keys of published configs that transformers does not read, with the only values that fit."""


def _read(config: ConfigReader) -> DecoderSpec:
    every = config.get_positive_int("sliding_window_pattern", 4)
    config.require("layer_switch", every, None)
    config.require_each(RELICS)
    for name in ("cache_implementation", "use_parallel_embedding"):  # how to run it, and on what
        config.get(name, None)
    windows = read_typed_windows(config, config.get_positive_int("sliding_window", 4096), full_every=every)
    spec = read_cohere(config, architecture_name="Cohere2ForCausalLM", model_type="cohere2", windows=windows)
    return without_ropes_in_full_layers(spec)


ARCHITECTURE = DecoderFamily(_read)
