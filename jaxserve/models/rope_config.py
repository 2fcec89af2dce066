"""RopeSpec from the keys of config.json.

Both spellings are read, also beside each other where they agree: `rope_theta` with `rope_scaling` (transformers 4) and
`rope_parameters` (transformers 5). Defaults are those of transformers' config classes.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxserve.layers.rope import LinearScaling, Llama3Scaling, LongRopeScaling, RopeSpec, Scaling, YarnScaling
from jaxserve.models.config_reader import ConfigReader

DEFAULT_ROPE_THETA = 10_000.0


def read_rope(
    config: ConfigReader,
    max_positions: int,
    *,
    head_dim: int,
    default_theta: float = DEFAULT_ROPE_THETA,
    default_fraction: float | None = None,
    ignored: frozenset[str] = frozenset(),
) -> RopeSpec:
    """Return the rotary frequencies, from either spelling, or from both where they mean the same.

    default_fraction is the part of a head that turns where the config does not say; None: this architecture turns
    whole heads, and a config that says otherwise is refused. ignored are keys of rope objects that change nothing.

    Raises UnknownArchitecture for unknown scalings, unknown keys of known ones, and spellings that disagree.
    """
    theta = config.get_positive_float("rope_theta") if config.get("rope_theta", None) is not None else None
    fraction = _read_fraction(config, default_fraction)
    original_positions = None
    if config.get("original_max_position_embeddings", None) is not None:
        original_positions = config.get_positive_int("original_max_position_embeddings")
    rope_by_key: dict[str, RopeSpec] = {}
    for name in ("rope_parameters", "rope_scaling"):
        if value := config.get_object(name):
            rope_by_key[name] = read_rope_object(
                ConfigReader(value, where=f"config.json, {name}"),
                max_positions,
                head_dim=head_dim,
                theta=theta,
                default_theta=default_theta,
                fraction=fraction,
                original_positions=original_positions,
                ignored=ignored,
            )
            theta = theta or rope_by_key[name].theta  # rope_scaling brings none of its own
    if len(set(rope_by_key.values())) > 1:
        expected = f"what rope_parameters says, {config.get('rope_parameters')!r}"
        raise config.unsupported("rope_scaling", config.get("rope_scaling"), expected)
    rotary_dim = _rotary_dim(config, head_dim, fraction)
    return next(iter(rope_by_key.values()), RopeSpec(theta or default_theta, rotary_dim=rotary_dim))


def read_rope_object(
    rope_config: ConfigReader,
    max_positions: int,
    *,
    head_dim: int,
    theta: float | None = None,
    default_theta: float = DEFAULT_ROPE_THETA,
    fraction: float | None = None,
    original_positions: int | None = None,
    ignored: frozenset[str] = frozenset(),
) -> RopeSpec:
    """Return the rotation of one rope object; theta, fraction and original_positions are what stands beside it.

    Raises UnknownArchitecture for unknown keys and scalings, and for a theta that contradicts the one outside.
    """
    own_theta = rope_config.get_positive_float("rope_theta", theta or default_theta)
    if theta is not None and own_theta != theta:
        raise rope_config.unsupported("rope_theta", own_theta, f"the {theta!r} that rope_theta says outside of it")
    kind = rope_config.get("rope_type", None) or rope_config.get("type", "default")
    rope_config.require("type", kind, None)
    if kind == "proportional":
        rope = _read_proportional(rope_config, own_theta, head_dim, fraction or 1.0)
    else:
        rotary_dim = _rotary_dim(rope_config, head_dim, _read_fraction(rope_config, fraction))
        scaling = _read_scaling(rope_config, kind, max_positions, rotary_dim or head_dim, original_positions)
        rope = RopeSpec(own_theta, scaling, rotary_dim)
    rope_config.reject_unread(ignored=ignored, neutral_values={})
    return rope


def _read_proportional(rope_config: ConfigReader, theta: float, head_dim: int, fraction: float) -> RopeSpec:
    """Return a rotation of which the fast pairs alone turn, as many as the fraction says."""
    fraction = rope_config.get_positive_float("partial_rotary_factor", fraction)
    factor = rope_config.get_positive_float("factor", 1.0)
    pairs = int(fraction * head_dim // 2)
    if not 0 < pairs <= head_dim // 2:
        expected = f"a fraction of which head_dim={head_dim} makes at least one pair and at most {head_dim // 2}"
        raise rope_config.unsupported("partial_rotary_factor", fraction, expected)
    scaling = None if factor == 1.0 else LinearScaling(factor)
    return RopeSpec(theta, scaling, turning_pairs=pairs if pairs < head_dim // 2 else None)


class ThetaKey(NamedTuple):
    """The key beside rope_parameters that gives the theta of a kind of layer, and its default."""

    name: str
    default: float


def read_typed_ropes(
    config: ConfigReader,
    thetas: Mapping[str, ThetaKey],
    *,
    default_max_positions: int,
    default_head_dim: int | None = None,
    default_fraction: float | None = None,
) -> dict[str, RopeSpec]:
    """Return one rotation a kind of layer, from rope_parameters or from the keys of transformers 4.

    thetas             for each kind of layer; rope_scaling is that of full_attention
    default_fraction   as in read_rope

    Raises UnknownArchitecture for unknown kinds, scalings and keys.
    """
    defaults = {kind: config.get_positive_float(key.name, key.default) for kind, key in thetas.items()}
    nested, scaling = config.get_object("rope_parameters"), config.get_object("rope_scaling")
    if unknown := nested.keys() - thetas.keys():
        raise config.unsupported("rope_parameters", sorted(unknown), f"nothing but {' and '.join(thetas)}")
    ropes, fraction = {}, _read_fraction(config, default_fraction)
    for kind, theta in defaults.items():
        values = {**(nested.get(kind) or {}), **(scaling if kind == "full_attention" else {})}
        width = default_head_dim or config.get_positive_int("hidden_size") // config.get_positive_int(
            "num_attention_heads"
        )
        ropes[kind] = read_rope_object(
            ConfigReader(values, where=f"config.json, rope_parameters, {kind}"),
            config.get_positive_int("max_position_embeddings", default_max_positions),
            head_dim=config.get_positive_int("head_dim", width),
            default_theta=theta,
            fraction=fraction,
        )
    return ropes


def _read_fraction(config: ConfigReader, default: float | None) -> float | None:
    if default is None:
        config.require("partial_rotary_factor", 1.0, None)
        return None
    return config.get_positive_float("partial_rotary_factor", default)


def _rotary_dim(config: ConfigReader, head_dim: int, fraction: float | None) -> int | None:
    """Return the count of numbers of a head that rotate; None: all."""
    if fraction is None:
        return None
    rotary_dim = int(head_dim * fraction)
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        expected = f"a fraction of which head_dim={head_dim} makes an even number of at most {head_dim}"
        raise config.unsupported("partial_rotary_factor", fraction, expected)
    return rotary_dim if rotary_dim < head_dim else None


def _read_scaling(
    config: ConfigReader, kind: str, max_positions: int, rotary_dim: int, outer_original_positions: int | None
) -> Scaling | None:
    match kind:
        case "default":
            return None
        case "linear":
            return LinearScaling(config.get_positive_float("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=config.get_positive_float("factor"),
                low_freq_factor=config.get_positive_float("low_freq_factor"),
                high_freq_factor=config.get_positive_float("high_freq_factor"),
                original_positions=config.get_positive_int("original_max_position_embeddings", max_positions),
            )
        case "yarn":
            return _read_yarn(config, max_positions)
        case "longrope" | "su":
            return _read_longrope(config, max_positions, rotary_dim, outer_original_positions)
    raise config.unsupported("rope_type", kind, "'default', 'linear', 'llama3', 'yarn', 'longrope' or 'proportional'")


def _read_longrope(
    config: ConfigReader, max_positions: int, rotary_dim: int, outer_original_positions: int | None
) -> LongRopeScaling:
    inner = config.get_positive_int("original_max_position_embeddings", max_positions)
    original_positions = outer_original_positions or inner  # transformers, too, prefers the one outside
    factor = config.get_positive_float("factor", max_positions / original_positions)
    if config.get("attention_factor", None) is not None:
        attention_factor = config.get_positive_float("attention_factor")
    else:
        attention_factor = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original_positions))
    return LongRopeScaling(
        short_factors=_read_factors(config, "short_factor", rotary_dim // 2),
        long_factors=_read_factors(config, "long_factor", rotary_dim // 2),
        original_positions=original_positions,
        attention_factor=attention_factor,
        max_positions=max_positions,
    )


def _read_factors(config: ConfigReader, name: str, count: int) -> tuple[float, ...]:
    factors = config.get(name)
    if not isinstance(factors, list) or len(factors) != count or not all(_is_positive(value) for value in factors):
        raise config.unsupported(name, factors, f"{count} numbers above 0, one for each frequency")
    return tuple(float(value) for value in factors)


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _read_yarn(config: ConfigReader, max_positions: int) -> YarnScaling:
    factor = config.get_positive_float("factor")
    attention_factor = config.get("attention_factor", None)
    mscale, mscale_all = config.get("mscale", None), config.get("mscale_all_dim", None)
    if attention_factor is not None:
        attention_factor = config.get_positive_float("attention_factor")
    elif mscale and mscale_all:
        attention_factor = yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, mscale_all)
    else:
        attention_factor = yarn_attention_factor(factor, 1.0)
    return YarnScaling(
        factor=factor,
        original_positions=config.get_positive_int("original_max_position_embeddings", max_positions),
        beta_fast=config.get_positive_float("beta_fast", 32.0),
        beta_slow=config.get_positive_float("beta_slow", 1.0),
        attention_factor=attention_factor,
        truncate=config.get_bool("truncate", True),
    )


def yarn_attention_factor(factor: float, mscale: float) -> float:
    """Return the attention factor that YaRN recommends at this factor (arXiv 2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
