"""LatentAttentionSpec from the keys of config.json, which DeepSeek has named and others have taken over."""

from dataclasses import dataclass, replace

from jaxserve.layers.norms import NormSpec
from jaxserve.layers.rope import RopeSpec, YarnScaling
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.rope_config import read_rope, yarn_attention_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSizes:
    """The sizes of a family's latent attention where config.json does not say them, by its names for them."""

    q_lora_rank: int | None = 1536
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128


def read_latent_attention(
    config: ConfigReader,
    max_positions: int,
    *,
    is_interleaved: bool,
    defaults: LatentSizes | None = None,
) -> LatentAttentionSpec:
    """Return the latent attention of all layers.

    Raises UnknownArchitecture, naming the key whose value is not understood.
    """
    defaults = defaults or LatentSizes()
    num_heads = config.get_positive_int("num_attention_heads")
    config.require("num_key_value_heads", num_heads, None)
    plain_dim = config.get_positive_int("qk_nope_head_dim", defaults.qk_nope_head_dim)
    rotary_dim = config.get_positive_int("qk_rope_head_dim", defaults.qk_rope_head_dim)
    if rotary_dim % 2:
        raise config.unsupported("qk_rope_head_dim", rotary_dim, "an even number, since positions turn pairs")
    config.require("qk_head_dim", plain_dim + rotary_dim, None)
    # Some say the one, some the other, some what it would be in plain attention; nobody reads it.
    width = config.get_positive_int("hidden_size")
    config.require("head_dim", rotary_dim, plain_dim + rotary_dim, width // num_heads, None)
    rope = replace(read_rope(config, max_positions, head_dim=rotary_dim), is_interleaved=is_interleaved)
    return LatentAttentionSpec(
        num_heads=num_heads,
        query_rank=_read_query_rank(config, defaults.q_lora_rank),
        latent_dim=config.get_positive_int("kv_lora_rank", defaults.kv_lora_rank),
        plain_dim=plain_dim,
        rotary_dim=rotary_dim,
        value_dim=config.get_positive_int("v_head_dim", defaults.v_head_dim),
        scale=(plain_dim + rotary_dim) ** -0.5 * _read_yarn_scale(config, rope),
        rope=rope,
        norm=NormSpec(1e-6),  # whatever rms_norm_eps says: these norms are made with their class's own default
        has_bias=config.get_bool("attention_bias", False),
    )


def _read_query_rank(config: ConfigReader, default: int | None) -> int | None:
    """Return the width of the queries' bottleneck; null is none, and a missing key the default."""
    if config.get("q_lora_rank", None) is None and (default is None or config.has("q_lora_rank")):
        return None
    return config.get_positive_int("q_lora_rank", default)


def _read_yarn_scale(config: ConfigReader, rope: RopeSpec) -> float:
    """Return the factor of the scores that DeepSeek's models have under YaRN: what `mscale_all_dim` means, squared.

    YaRN itself multiplies cosines and sines by such a factor; here they have mscale / mscale_all_dim, which is mostly
    one, because the numbers that do not rotate have to be scaled, too.
    """
    scaling = rope.scaling
    if not isinstance(scaling, YarnScaling):
        return 1.0
    values = config.get("rope_parameters", None) or config.get("rope_scaling")
    mscale_all = values.get("mscale_all_dim", None)
    return yarn_attention_factor(scaling.factor, mscale_all) ** 2 if mscale_all else 1.0
