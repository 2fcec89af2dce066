"""Apertus: normed heads, and a feed-forward block without a gate whose activation, xIELU, is learned."""

from jaxserve.layers.rope import Llama3Scaling, RopeSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_activation, read_decoder_spec, uniform_windows
from jaxserve.models.family import DecoderFamily, named
from jaxserve.models.spec import DecoderSpec

NAMES = {"attention_norm": "attention_layernorm", "mlp_norm": "feedforward_layernorm", "xielu": "mlp.act_fn"}
RELICS = {"mlp_bias": False, "post_norm": False, "qk_norm": True}
"""Keys of published configs that transformers does not read, with the only values that fit."""
DEFAULT_ROPE = RopeSpec(12_000_000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192))


def _read(config: ConfigReader) -> DecoderSpec:
    config.require_each(RELICS)
    bias = config.get_bool("attention_bias", False)
    has_rope = any(config.get(name, None) for name in ("rope_parameters", "rope_scaling"))
    if not has_rope:
        config.require("rope_theta", DEFAULT_ROPE.theta, None)
    is_learned = config.get("hidden_act", "xielu") == "xielu"
    return read_decoder_spec(
        config,
        architecture_name="ApertusForCausalLM",
        model_type="apertus",
        windows=uniform_windows(config, None),
        rope=None if has_rope else DEFAULT_ROPE,
        default_theta=12_000_000.0,
        default_max_positions=65_536,
        default_vocab_size=131_072,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias, "qk_norm": "head"},
        mlp={"is_gated": False, "activation": "xielu" if is_learned else read_activation(config)},
    )


ARCHITECTURE = DecoderFamily(_read, named(NAMES))
