"""InternLM 3: Llama with one bias setting for all, and positions that are scaled beyond the trained length alone."""

from collections.abc import Mapping

from jaxserve.layers.rope import RopeSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", config.get("qkv_bias", False))
    mlp_bias = config.get_bool("mlp_bias", config.get("bias", False))
    if bias != mlp_bias:
        raise config.unsupported("bias", mlp_bias, f"{bias}, as qkv_bias")
    for name in ("qkv_bias", "bias"):
        config.require(name, bias, None)
    return read_decoder_spec(
        config,
        architecture_name="InternLM3ForCausalLM",
        model_type="internlm3",
        windows=uniform_windows(config, None),
        num_kv_heads=2,
        head_dim=128,
        rope=read_dynamic(config),
        default_max_positions=32_768,
        default_vocab_size=128_512,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"bias": bias},
    )


def read_dynamic(config: ConfigReader) -> RopeSpec | None:
    """Return the rotation of a dynamic scaling: as trained, because max_position_embeddings limits every request.

    None where the config has another one.
    """
    name = "rope_parameters" if config.get("rope_parameters", None) else "rope_scaling"
    values = config.get(name, {})
    if not isinstance(values, Mapping) or (values.get("rope_type") or values.get("type")) != "dynamic":
        return None
    rope = ConfigReader(values, f"config.json, {name}")
    for key in ("rope_type", "type"):
        rope.require(key, "dynamic", None)
    rope.get_positive_float("factor", 1.0)
    theta = rope.get_positive_float("rope_theta", config.get_positive_float("rope_theta", 10_000.0))
    config.require("rope_theta", theta, None)
    rope.reject_unread(ignored=frozenset(), neutral_values={})
    return RopeSpec(theta)


ARCHITECTURE = DecoderFamily(_read)
