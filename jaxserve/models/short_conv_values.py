"""Decoders with short convolutions from the keys of config.json, and their tensors: LFM2 and LFM2-MoE."""

from dataclasses import replace

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_kernel_size, read_layers_of, with_attention
from jaxserve.models.family import TensorNames, named
from jaxserve.models.origins import Layout
from jaxserve.models.short_conv_spec import ShortConvSpec
from jaxserve.models.spec import DecoderSpec

SHORT_CONV: Layout = {
    "output": "self_attn.out_proj",
    "query_norm": "self_attn.q_layernorm",
    "key_norm": "self_attn.k_layernorm",
    **dict.fromkeys(("conv_before", "conv_after", "conv_value"), "conv.in_proj"),
    "conv_output": "conv.out_proj",
    "conv_kernel": "conv.conv.weight",
    "conv_bias": "conv.conv.bias",
    "gate": "feed_forward.w1",
    "up": "feed_forward.w3",
    "down": "feed_forward.w2",
    "attention_norm": "operator_norm",
    "mlp_norm": "ffn_norm",
}


def short_conv_names(usual: Layout | None = None, *others: Layout) -> TensorNames:
    """Return the names of tensors with these further ones: of the usual layout, then of others."""
    return replace(named({**SHORT_CONV, **(usual or {})}, *others), final_norm="model.embedding_norm")


def read_short_conv(
    config: ConfigReader, *, architecture_name: str, model_type: str, default_types: list[str], hidden: int
) -> DecoderSpec:
    """Return the spec of a decoder with short convolutions, and dense blocks of so many hidden numbers.

    default_types: the kinds of layers where layer_types does not say them.
    """
    convolved = read_layers_of(config, ("conv",), ("full_attention",), default_types)
    config.require("hidden_act", "silu", None)
    spec = read_decoder_spec(
        config,
        architecture_name=architecture_name,
        model_type=model_type,
        num_kv_heads=8,
        default_theta=1_000_000.0,
        default_max_positions=128_000,
        default_vocab_size=65_536,
        tie_embeddings=config.get_bool("tie_embedding", True),
        norm={"eps": config.get_positive_float("norm_eps", 1e-5)},
        attention={"qk_norm": "head"},
        mlp={"hidden": hidden},
    )
    kernel_size, bias = read_kernel_size(config, "conv_L_cache", 3), config.get_bool("conv_bias", False)
    return with_attention(spec, ShortConvSpec(channels=spec.width, kernel_size=kernel_size, bias=bias), convolved)
