"""Mamba2Spec from the keys of config.json, which Bamba has named and Granite 4 has taken over."""

from math import inf

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_kernel_size
from jaxserve.models.mamba2_spec import Mamba2Spec
from jaxserve.models.origins import Layout

MAMBA2: Layout = {
    **dict.fromkeys(
        ("mamba_gate", "mamba_value", "mamba_key", "mamba_query", "mamba_step"),
        "mamba.in_proj",
    ),
    "mamba_output": "mamba.out_proj",
    **dict.fromkeys(("mamba_value_conv", "mamba_key_conv"), "mamba.conv1d.weight"),
    **dict.fromkeys(("mamba_value_conv_bias", "mamba_key_conv_bias"), "mamba.conv1d.bias"),
    "mamba_log_a": "mamba.A_log",
    "mamba_bias": "mamba.dt_bias",
    "mamba_skip": "mamba.D",
    "mamba_norm": "mamba.norm.weight",
}
NO_LIMIT = ([0.0, inf], [0.0, {"__float__": "Infinity"}], None)
"""Limits of steps that are none, as they are in files. Others transformers applies to prompts and not to tokens."""


def read_mamba2(config: ConfigReader, width: int | None = None) -> Mamba2Spec:
    """Return the Mamba-2 of all layers that have it. width: numbers of all heads; None: mamba_expand says it.

    Raises UnknownArchitecture, naming the key whose value is not understood.
    """
    config.require("hidden_act", "silu", "swish", None)
    config.require("time_step_limit", *NO_LIMIT)
    config.get("mamba_chunk_size", None)  # how many tokens are computed together there
    expanded = config.get_positive_int("mamba_expand", 2) * config.get_positive_int("hidden_size")
    width = expanded if width is None else width
    num_heads, groups = config.get_positive_int("mamba_n_heads", 128), config.get_positive_int("mamba_n_groups", 1)
    if width % num_heads or num_heads % groups:
        expected = f"a divisor of the width of all heads, {width}, and a multiple of {groups} groups"
        raise config.unsupported("mamba_n_heads", num_heads, expected)
    config.require("mamba_d_head", width // num_heads, "auto", None)
    return Mamba2Spec(
        num_heads=num_heads,
        head_dim=width // num_heads,
        num_groups=groups,
        state_dim=config.get_positive_int("mamba_d_state", 256),
        kernel_size=read_kernel_size(config, "mamba_d_conv", 4),
        projection_bias=config.get_bool("mamba_proj_bias", False),
        conv_bias=config.get_bool("mamba_conv_bias", True),
    )
