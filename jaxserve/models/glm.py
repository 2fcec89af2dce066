"""GLM-4 9B of 2024 (model_type glm): half of each head turns, neighbours together; gate and up are one tensor."""

from typing import Any

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.spec import DecoderSpec

GATE_UP = {"gate": "mlp.gate_up_proj", "up": "mlp.gate_up_proj"}


def read_glm(config: ConfigReader, *, architecture_name: str, model_type: str, layer: dict[str, Any]) -> DecoderSpec:
    """Return the spec of GLM, or of GLM-4 with the fields of its layers."""
    return read_decoder_spec(
        config,
        architecture_name=architecture_name,
        model_type=model_type,
        windows=uniform_windows(config, None),
        num_kv_heads=2,
        head_dim=128,
        rope_fraction=0.5,
        is_rope_interleaved=True,
        default_max_positions=131_072,
        default_vocab_size=151_552,
        norm={"eps": config.get_positive_float("rms_norm_eps", 0.00000015625)},
        attention={"qkv_bias": config.get_bool("attention_bias", True)},
        layer=layer,
    )


def _read(config: ConfigReader) -> DecoderSpec:
    return read_glm(config, architecture_name="GlmForCausalLM", model_type="glm", layer={})


ARCHITECTURE = DecoderFamily(_read, named(GATE_UP))
