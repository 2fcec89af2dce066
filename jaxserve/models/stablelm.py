"""StableLM 3B and StableLM 2: Llama with LayerNorm and heads of which a quarter rotates.

A norm for each head of its own (qk_layernorm, StableLM 2 12B) is refused.
"""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    return read_decoder_spec(
        config,
        architecture_name="StableLmForCausalLM",
        model_type="stablelm",
        windows=uniform_windows(config, None),
        num_kv_heads=32,
        rope_fraction=0.25,
        default_max_positions=4096,
        default_vocab_size=50_304,
        norm={"kind": "layer", "has_bias": True, "eps": config.get_positive_float("layer_norm_eps", 1e-5)},
        attention={"qkv_bias": config.get_bool("use_qkv_bias", False)},
        layer={"is_parallel": config.get_bool("use_parallel_residual", False)},
    )


ARCHITECTURE = DecoderFamily(_read)
