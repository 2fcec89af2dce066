"""SmolLM3: Llama in which every fourth layer does not rotate."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import (
    list_ropes,
    read_decoder_spec,
    read_rotating_layers,
    read_typed_windows,
    with_ropes,
)
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias, rotates = config.get_bool("attention_bias", False), read_rotating_layers(config)
    window = None
    if config.get_bool("use_sliding_window", False) and config.get("sliding_window", None) is not None:
        window = config.get_positive_int("sliding_window")
    types = ["full_attention" if window is None or does else "sliding_attention" for does in rotates]
    spec = read_decoder_spec(
        config,
        architecture_name="SmolLM3ForCausalLM",
        model_type="smollm3",
        windows=read_typed_windows(config, window, default_types=types),
        num_kv_heads=4,
        default_theta=2_000_000.0,
        tie_embeddings=True,
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"bias": config.get_bool("mlp_bias", False)},
    )
    return with_ropes(
        spec,
        tuple(rope if does else None for rope, does in zip(list_ropes(spec), rotates, strict=True)),
    )


ARCHITECTURE = DecoderFamily(_read)
