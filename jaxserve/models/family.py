"""What the relatives of Llama share in Hugging Face's words: sizes, positions, windows, and the tensors' names.

Defaults are those of transformers' config classes, because a config.json may leave out what equals its default.
Both spellings are read, also beside each other where they agree: `rope_theta` with `rope_scaling` (transformers 4) and
`rope_parameters` (transformers 5).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxserve.layers.rope import LinearScaling, Llama3Scaling, RopeSpec, YarnScaling
from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.spec import DecoderSpec, ParamPath, ParamSpec, attention_projections, mlp_projections

HF_MODULE_NAMES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
DEFAULT_ROPE_THETA = 10_000.0
EMBEDDING_NAME, HEAD_NAME, FINAL_NORM_NAME = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def read_decoder_spec(
    config: ConfigReader,
    *,
    architecture: str,
    model_type: str,
    windows: tuple[int | None, ...],
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    **arithmetic: bool,
) -> DecoderSpec:
    """The spec of a relative: common keys read here, what is its own handed in.

    num_kv_heads and head_dim are the values that hold where the config says nothing; None: as many as query heads,
    and width / heads. Ends by refusing every key left over.
    """
    config.require("model_type", model_type)
    config.require("hidden_act", "silu")
    width, num_heads = config.get_positive_int("hidden_size"), config.get_positive_int("num_attention_heads")
    kv_heads = config.get_positive_int("num_key_value_heads", num_kv_heads or num_heads)
    if num_heads % kv_heads:
        raise config.unsupported("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {num_heads}")
    if not (head_dim or config.get("head_dim", None)) and width % num_heads:
        raise config.unsupported("hidden_size", width, f"a multiple of num_attention_heads, {num_heads}, or a head_dim")
    head_dim = config.get_positive_int("head_dim", head_dim or width // num_heads)
    if head_dim % 2:
        raise config.unsupported("head_dim", head_dim, "an even number, since positions turn pairs")
    max_positions = config.get_positive_int("max_position_embeddings")
    spec = DecoderSpec(
        architecture=architecture,
        vocab_size=config.get_positive_int("vocab_size"),
        width=width,
        mlp_width=config.get_positive_int("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        norm_eps=config.get_positive_float("rms_norm_eps", 1e-6),
        rope=read_rope(config, max_positions),
        windows=windows,
        tie_embeddings=config.get_bool("tie_word_embeddings", False),
        **arithmetic,
    )
    config.reject_unread()
    return spec


def read_rope(config: ConfigReader, max_positions: int) -> RopeSpec:
    """Return the rotary frequencies, from either spelling, or from both where they mean the same.

    Raises UnknownArchitecture for unknown scalings, unknown keys of known ones, and spellings that disagree.
    """
    theta = config.get_positive_float("rope_theta") if config.get("rope_theta", None) is not None else None
    rope_by_key: dict[str, RopeSpec] = {}
    for name in ("rope_parameters", "rope_scaling"):
        value = config.get(name, None)
        if value is not None and not isinstance(value, Mapping):
            raise config.unsupported(name, value, "an object or null")
        if value:
            rope_by_key[name] = _read_rope_object(config, name, value, theta, max_positions)
            theta = theta or rope_by_key[name].theta  # rope_scaling brings none of its own
    if len(set(rope_by_key.values())) > 1:
        expected = f"what rope_parameters says, {config.get('rope_parameters')!r}"
        raise config.unsupported("rope_scaling", config.get("rope_scaling"), expected)
    return next(iter(rope_by_key.values()), RopeSpec(theta or DEFAULT_ROPE_THETA))


def _read_rope_object(
    config: ConfigReader, name: str, value: Mapping[str, Any], theta: float | None, max_positions: int
) -> RopeSpec:
    """What one of the two objects means; theta is what stands beside it."""
    rope_config = ConfigReader(value, where=f"config.json, {name}")
    own_theta = rope_config.get_positive_float("rope_theta", theta or DEFAULT_ROPE_THETA)
    if theta is not None and own_theta != theta:
        raise rope_config.unsupported("rope_theta", own_theta, f"the {theta!r} that rope_theta says outside of it")
    rope_config.require("partial_rotary_factor", 1.0, None)
    kind = rope_config.get("rope_type", None) or rope_config.get("type", "default")
    rope_config.require("type", kind, None)
    scaling = _read_scaling(rope_config, kind, max_positions)
    rope_config.reject_unread(ignored=frozenset(), neutral_values={})
    return RopeSpec(own_theta, scaling)


def _read_scaling(
    config: ConfigReader, kind: str, max_positions: int
) -> LinearScaling | Llama3Scaling | YarnScaling | None:
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
    raise config.unsupported("rope_type", kind, "'default', 'linear', 'llama3' or 'yarn'")


def _read_yarn(config: ConfigReader, max_positions: int) -> YarnScaling:
    factor = config.get_positive_float("factor")
    attention_factor = config.get("attention_factor", None)
    mscale, mscale_all = config.get("mscale", None), config.get("mscale_all_dim", None)
    if attention_factor is not None:
        attention_factor = config.get_positive_float("attention_factor")
    elif mscale and mscale_all:
        attention_factor = _yarn_attention_factor(factor, mscale) / _yarn_attention_factor(factor, mscale_all)
    else:
        attention_factor = _yarn_attention_factor(factor, 1.0)
    return YarnScaling(
        factor=factor,
        original_positions=config.get_positive_int("original_max_position_embeddings", max_positions),
        beta_fast=config.get_positive_float("beta_fast", 32.0),
        beta_slow=config.get_positive_float("beta_slow", 1.0),
        attention_factor=attention_factor,
        truncate=config.get_bool("truncate", True),
    )


def _yarn_attention_factor(factor: float, mscale: float) -> float:
    """YaRN's advice for the sharpness of attention at this factor (arXiv 2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def read_layer_windows(
    config: ConfigReader, *, default_start: int = 28, default_window: int = 4096
) -> tuple[int | None, ...]:
    """Qwen's windows: the layers named in `layer_types`, or those from `max_window_layers` on, if windows are used."""
    num_layers = config.get_positive_int("num_hidden_layers")
    used = config.get_bool("use_sliding_window", False)
    window, start = config.get("sliding_window", default_window), config.get("max_window_layers", default_start)
    if used:
        window = config.get_positive_int("sliding_window", default_window)
    types = config.get("layer_types", None)
    if types is None:
        types = ["sliding_attention" if used and i >= start else "full_attention" for i in range(num_layers)]
    allowed = {"full_attention": None} | ({"sliding_attention": window} if used else {})
    if len(types) != num_layers or any(kind not in allowed for kind in types):
        expected = f"{num_layers} entries, each {' or '.join(repr(kind) for kind in allowed)}"
        raise config.unsupported("layer_types", types, expected)
    return tuple(allowed[kind] for kind in types)


def uniform_windows(config: ConfigReader, window: int | None) -> tuple[int | None, ...]:
    """The same window, or none, in every layer."""
    num_layers = config.get_positive_int("num_hidden_layers")
    kind = "full_attention" if window is None else "sliding_attention"
    config.require("layer_types", [kind] * num_layers, None)
    return (window,) * num_layers


def params(spec: DecoderSpec) -> dict[ParamPath, ParamSpec]:
    """Every weight of the decoder, by its path in the module tree, with its origin in the checkpoint."""
    param_specs: dict[ParamPath, ParamSpec] = {
        ("embed", "table"): ParamSpec(EMBEDDING_NAME, (spec.vocab_size, spec.width), _identity, is_matrix=True),
        ("final_norm", "scale"): ParamSpec(FINAL_NORM_NAME, (spec.width,), _identity),
    }
    if not spec.tie_embeddings:
        param_specs["head", "table"] = ParamSpec(HEAD_NAME, (spec.vocab_size, spec.width), _identity, is_matrix=True)
    for layer in range(spec.num_layers):
        for path, param in _layer_params(spec, f"model.layers.{layer}").items():
            param_specs["layers", layer, *path] = param
    return param_specs


def _layer_params(spec: DecoderSpec, prefix: str) -> dict[ParamPath, ParamSpec]:
    param_specs: dict[ParamPath, ParamSpec] = {}
    for part, projections in (("attention", attention_projections(spec)), ("mlp", mlp_projections(spec))):
        for name, width_in, width_out, bias in projections:
            stem = f"{prefix}.{HF_MODULE_NAMES[name]}"
            param_specs[part, name, "kernel"] = ParamSpec(
                f"{stem}.weight", (width_out, width_in), np.transpose, is_matrix=True
            )
            if bias:
                param_specs[part, name, "bias"] = ParamSpec(f"{stem}.bias", (width_out,), _identity)
    norms: dict[ParamPath, int] = {("attention_norm",): spec.width, ("mlp_norm",): spec.width}
    if spec.qk_norm:
        norms |= {("attention", "query_norm"): spec.head_dim, ("attention", "key_norm"): spec.head_dim}
    for path, width in norms.items():
        name = HF_MODULE_NAMES[str(path[-1])]
        param_specs[*path, "scale"] = ParamSpec(f"{prefix}.{name}.weight", (width,), _identity)
    return param_specs


def ignored_tensors(spec: DecoderSpec) -> frozenset[str]:
    """Tensors that a checkpoint may carry and nobody reads: rotary tables, and the head of a tied model."""
    names = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(spec.num_layers)}
    return frozenset(names | {"model.rotary_emb.inv_freq"} | ({HEAD_NAME} if spec.tie_embeddings else set()))


def _identity(array: np.ndarray) -> np.ndarray:
    return array
