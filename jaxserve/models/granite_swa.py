"""Granite with windows: sinks in every layer, and a theta for each, of which 0 means no rotation."""

from dataclasses import replace

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import list_ropes, read_typed_windows, with_ropes
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.granite import read_granite
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    types = ["sliding_attention" if layer % 4 else "full_attention" for layer in range(layers)]
    spec = read_granite(
        config,
        "GraniteSWAForCausalLM",
        "granite_swa",
        windows=read_typed_windows(config, config.get_positive_int("sliding_window", 128), default_types=types),
        num_kv_heads=4,
        tie_embeddings=True,
        default_max_positions=8192,
        default_vocab_size=100_352,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"has_sinks": True},
        mlp={"bias": config.get_bool("mlp_bias", False)},
    )
    thetas = config.get("layer_rope_theta", None)
    if thetas is None:
        return spec
    if not isinstance(thetas, list) or len(thetas) != layers or not all(_is_theta(value) for value in thetas):
        raise config.unsupported("layer_rope_theta", thetas, f"{layers} numbers above 0, or 0 where nothing rotates")
    ropes = list_ropes(spec)
    return with_ropes(
        spec,
        tuple(
            replace(rope, theta=float(theta)) if theta and rope else None
            for rope, theta in zip(ropes, thetas, strict=True)
        ),
    )


def _is_theta(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


ARCHITECTURE = DecoderFamily(_read, named({"sinks": "self_attn.sinks"}))
