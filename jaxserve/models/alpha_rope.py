"""The rotation of Hunyuan's models, whose base is stretched once for all by an alpha (NTK-aware scaling)."""

from collections.abc import Mapping
from typing import Any

from jaxserve.layers.rope import RopeSpec
from jaxserve.models.config_reader import ConfigReader

UNUSED = ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""Keys that transformers does not read beside an alpha."""


def read_alpha_rope(config: ConfigReader) -> RopeSpec | None:
    """Return the rotation under a fixed alpha, which configs call dynamic though it is not; None without one.

    Raises UnknownArchitecture for an alpha that is no number above 0, and for keys beside it that are not known.
    """
    name = "rope_parameters" if config.get("rope_parameters", None) else "rope_scaling"
    values: Mapping[str, Any] = config.get(name, {})
    if not isinstance(values, Mapping) or (values.get("rope_type") or values.get("type")) != "dynamic":
        return None
    rope = ConfigReader(values, f"config.json, {name}")
    rope.ignore("rope_type", "type", *UNUSED)
    theta = rope.get_positive_float("rope_theta", config.get_positive_float("rope_theta", 10_000.0))
    config.require("rope_theta", theta, None)
    size = config.get("head_dim", config.get("attention_head_dim", None)) or (
        config.get_positive_int("hidden_size") // config.get_positive_int("num_attention_heads")
    )
    stretched = theta * rope.get_positive_float("alpha") ** (size / (size - 2))
    rope.reject_unread(ignored=frozenset(), neutral_values={})
    return RopeSpec(stretched)
