"""Phi 3.5 with experts: LayerNorm, and two experts, each weighed among those that come near it (arXiv 2409.12136)."""

from collections.abc import Mapping
from typing import Any

from jaxserve.layers.moe import RouterSpec
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_window, uniform_windows
from jaxserve.models.family import FUSED_EXPERTS, DecoderFamily, named
from jaxserve.models.mixtral import EXPERTS
from jaxserve.models.moe_values import mix_experts, read_num_experts, with_experts
from jaxserve.models.spec import DecoderSpec


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    for name in ("rope_parameters", "rope_scaling"):
        _take_magnitude(config, name)
    spec = read_decoder_spec(
        config,
        architecture_name="PhimoeForCausalLM",
        model_type="phimoe",
        windows=uniform_windows(config, read_window(config)),
        num_kv_heads=8,
        default_theta=1e6,
        default_max_positions=131_072,
        default_vocab_size=32_064,
        norm={"kind": "layer", "has_bias": True, "eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        decoder={"has_head_bias": config.get_bool("lm_head_bias", False)},
    )
    num_experts = read_num_experts(config, "num_local_experts", default=16)
    config.require("num_experts_per_tok", 2, None)  # transformers computes no other number
    config.ignore("input_jitter_noise")  # of training
    nearness = 2 * config.get_positive_float("router_jitter_noise", 0.01)
    router = RouterSpec(top_k=2, score="near_best", renormalize=False, nearness=nearness)
    hidden = config.get_positive_int("intermediate_size")
    moe = mix_experts(config, router, num_experts=num_experts, hidden=hidden)
    return with_experts(spec, moe, range(spec.num_layers))


def _take_magnitude(config: ConfigReader, name: str) -> None:
    """Say the factor of sines and cosines as others do: attention_factor. It must not depend on the length."""
    rope: Any = config.get(name, None)
    if not isinstance(rope, Mapping) or "short_mscale" not in rope:
        return
    if rope.get("long_mscale") != rope["short_mscale"]:
        raise config.unsupported(name, dict(rope), "a long_mscale that is its short_mscale")
    others = {key: value for key, value in rope.items() if key not in ("short_mscale", "long_mscale")}
    config.replace(name, others | {"attention_factor": rope["short_mscale"]})


IN_MEMORY = {**FUSED_EXPERTS, "router": "mlp.router"}
ARCHITECTURE = DecoderFamily(_read, named(EXPERTS, IN_MEMORY))
