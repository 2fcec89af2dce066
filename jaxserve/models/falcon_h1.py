"""Falcon-H1: attention and Mamba-2 read the same norm, and every block has factors of its own.

Each layer of the checkpoint is two here: attention, and Mamba-2 beside it with the feed-forward block.
"""

from dataclasses import replace
from math import prod

from jaxserve.models.bamba import NAMES
from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec
from jaxserve.models.family import DecoderFamily
from jaxserve.models.mamba2_spec import Mamba2Multipliers, Mamba2Spec
from jaxserve.models.mamba2_values import read_mamba2
from jaxserve.models.spec import AttentionSpec, DecoderSpec

UNUSED = ("mamba_use_mlp", "mlp_expansion_factor", "num_logits_to_keep")
UNUSED += ("time_step_floor", "time_step_max", "time_step_min")


def _read(config: ConfigReader) -> DecoderSpec:
    config.ignore(*UNUSED)
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    config.require("layers_block_type", ["hybrid"] * num_layers, None)
    config.require("attn_layer_indices", None)  # every layer has attention
    bias = config.get_bool("attention_bias", False)
    gate_multiplier, down_multiplier = _read_factors(config, "mlp_multipliers", 2)
    spec = read_decoder_spec(
        config,
        architecture_name="FalconH1ForCausalLM",
        model_type="falcon_h1",
        num_kv_heads=8,
        default_max_positions=8192,
        default_vocab_size=128_000,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={
            "bias": config.get_bool("mlp_bias", False),
            "gate_multiplier": gate_multiplier,
            "output_multiplier": down_multiplier,
        },
        decoder={
            "embedding_multiplier": config.get_positive_float("embedding_multiplier", 1.0),
            "logits_multiplier": config.get_positive_float("lm_head_multiplier", 1.0),
        },
    )
    # Without biases, a factor of the input is one of queries, keys and values, and so of scores and of the output.
    before = _read_input_factor(config, "attention_in_multiplier", bias)
    after = config.get_positive_float("attention_out_multiplier", 1.0)
    attention, mamba = spec.layers[0].attention, _read_mamba2(config)
    assert isinstance(attention, AttentionSpec)
    scale = prod((attention.scale, before, before, config.get_positive_float("key_multiplier", 1.0)))
    plain = replace(
        spec.layers[0], attention=replace(attention, scale=scale), mlp=None, residual_multiplier=before * after
    )
    return replace(spec, layers=(plain, replace(spec.layers[0], attention=mamba, is_beside_previous=True)) * num_layers)


def _read_mamba2(config: ConfigReader) -> Mamba2Spec:
    default = None if config.has("mamba_d_ssm") else 1024
    width = config.get("mamba_d_ssm", default) and config.get_positive_int("mamba_d_ssm", default)
    mamba = read_mamba2(config, width)
    config.require("projectors_bias", mamba.projection_bias, None)
    before = _read_input_factor(config, "ssm_in_multiplier", mamba.projection_bias)
    after = config.get_positive_float("ssm_out_multiplier", 1.0)
    factors = [before * factor for factor in _read_factors(config, "ssm_multipliers", 5)]
    place = "before_gate" if config.get_bool("mamba_norm_before_gate", True) else "behind_gate"
    return replace(
        mamba,
        norm_place=place if config.get_bool("mamba_rms_norm", False) else "none",
        multipliers=Mamba2Multipliers(*factors, output=after),
    )


def _read_input_factor(config: ConfigReader, name: str, has_bias: bool) -> float:
    factor = config.get_positive_float(name, 1.0)
    if has_bias and factor != 1.0:
        raise config.unsupported(name, factor, "1.0 where projections have biases")
    return factor


def _read_factors(config: ConfigReader, name: str, count: int) -> list[float]:
    factors = config.get(name, [1.0] * count)
    if not isinstance(factors, list) or len(factors) != count or not all(isinstance(x, float | int) for x in factors):
        raise config.unsupported(name, factors, f"{count} numbers")
    return [float(factor) for factor in factors]


ARCHITECTURE = DecoderFamily(_read, NAMES)
