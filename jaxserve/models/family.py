"""What the relatives of Llama share in Hugging Face's words: sizes, positions, windows, and the tensors' names.

Defaults are those of transformers' config classes, because a config.json may leave out what equals its default.
Both spellings are read, also beside each other where they agree: `rope_theta` with `rope_scaling` (transformers 4) and
`rope_parameters` (transformers 5).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxserve.layers.rope import Linear, Llama3, Rope, Yarn
from jaxserve.models.keys import Keys
from jaxserve.models.spec import DecoderSpec, Leaf, Path, attention_widths, mlp_widths

CHECKPOINT_NAMES = {
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
DEFAULT_THETA = 10_000.0
EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def read(
    keys: Keys,
    *,
    name: str,
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
    keys.must_be("model_type", model_type)
    keys.must_be("hidden_act", "silu")
    width, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    kv_heads = keys.count("num_key_value_heads", num_kv_heads or heads)
    if heads % kv_heads:
        raise keys.refusal("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {heads}")
    if not (head_dim or keys.take("head_dim", None)) and width % heads:
        raise keys.refusal("hidden_size", width, f"a multiple of num_attention_heads, {heads}, or a head_dim")
    head_dim = keys.count("head_dim", head_dim or width // heads)
    if head_dim % 2:
        raise keys.refusal("head_dim", head_dim, "an even number, since positions turn pairs")
    positions = keys.count("max_position_embeddings")
    spec = DecoderSpec(
        name=name,
        vocab_size=keys.count("vocab_size"),
        width=width,
        mlp_width=keys.count("intermediate_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=positions,
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        rope=rope(keys, positions),
        windows=windows,
        tied=keys.flag("tie_word_embeddings", False),
        **arithmetic,
    )
    keys.finish()
    return spec


def rope(keys: Keys, max_positions: int) -> Rope:
    """Return the rotary frequencies, from either spelling, or from both where they mean the same.

    Raises UnknownArchitecture for unknown scalings, unknown keys of known ones, and spellings that disagree.
    """
    theta = keys.number("rope_theta") if keys.take("rope_theta", None) is not None else None
    found: dict[str, Rope] = {}
    for name in ("rope_parameters", "rope_scaling"):
        value = keys.take(name, None)
        if value is not None and not isinstance(value, Mapping):
            raise keys.refusal(name, value, "an object or null")
        if value:
            found[name] = _spelled_rope(keys, name, value, theta, max_positions)
            theta = theta or found[name].theta  # rope_scaling brings none of its own
    if len(set(found.values())) > 1:
        wanted = f"what rope_parameters says, {keys.take('rope_parameters')!r}"
        raise keys.refusal("rope_scaling", keys.take("rope_scaling"), wanted)
    return next(iter(found.values()), Rope(theta or DEFAULT_THETA))


def _spelled_rope(keys: Keys, name: str, value: Mapping[str, Any], theta: float | None, max_positions: int) -> Rope:
    """What one of the two objects means; theta is what stands beside it."""
    inner = Keys(value, where=f"config.json, {name}")
    own = inner.number("rope_theta", theta or DEFAULT_THETA)
    if theta is not None and own != theta:
        raise inner.refusal("rope_theta", own, f"the {theta!r} that rope_theta says outside of it")
    inner.must_be("partial_rotary_factor", 1.0, None)
    kind = inner.take("rope_type", None) or inner.take("type", "default")
    inner.must_be("type", kind, None)
    scaling = _scaling(inner, kind, max_positions)
    inner.finish(inert=frozenset(), neutral={})
    return Rope(own, scaling)


def _scaling(keys: Keys, kind: str, max_positions: int) -> Linear | Llama3 | Yarn | None:
    match kind:
        case "default":
            return None
        case "linear":
            return Linear(keys.number("factor"))
        case "llama3":
            return Llama3(
                factor=keys.number("factor"),
                low_freq_factor=keys.number("low_freq_factor"),
                high_freq_factor=keys.number("high_freq_factor"),
                original_positions=keys.count("original_max_position_embeddings", max_positions),
            )
        case "yarn":
            return _yarn(keys, max_positions)
    raise keys.refusal("rope_type", kind, "'default', 'linear', 'llama3' or 'yarn'")


def _yarn(keys: Keys, max_positions: int) -> Yarn:
    factor = keys.number("factor")
    magnitude = keys.take("attention_factor", None)
    mscale, mscale_all = keys.take("mscale", None), keys.take("mscale_all_dim", None)
    if magnitude is not None:
        magnitude = keys.number("attention_factor")
    elif mscale and mscale_all:
        magnitude = _magnitude(factor, mscale) / _magnitude(factor, mscale_all)
    else:
        magnitude = _magnitude(factor, 1.0)
    return Yarn(
        factor=factor,
        original_positions=keys.count("original_max_position_embeddings", max_positions),
        beta_fast=keys.number("beta_fast", 32.0),
        beta_slow=keys.number("beta_slow", 1.0),
        magnitude=magnitude,
        truncate=keys.flag("truncate", True),
    )


def _magnitude(factor: float, mscale: float) -> float:
    """YaRN's advice for the sharpness of attention at this factor (arXiv 2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def layered_windows(keys: Keys, *, default_start: int = 28, default_window: int = 4096) -> tuple[int | None, ...]:
    """Qwen's windows: the layers named in `layer_types`, or those from `max_window_layers` on, if windows are used."""
    layers = keys.count("num_hidden_layers")
    used = keys.flag("use_sliding_window", False)
    window, start = keys.take("sliding_window", default_window), keys.take("max_window_layers", default_start)
    if used:
        window = keys.count("sliding_window", default_window)
    types = keys.take("layer_types", None)
    if types is None:
        types = ["sliding_attention" if used and i >= start else "full_attention" for i in range(layers)]
    allowed = {"full_attention": None} | ({"sliding_attention": window} if used else {})
    if len(types) != layers or any(kind not in allowed for kind in types):
        wanted = f"{layers} entries, each {' or '.join(repr(kind) for kind in allowed)}"
        raise keys.refusal("layer_types", types, wanted)
    return tuple(allowed[kind] for kind in types)


def uniform_windows(keys: Keys, window: int | None) -> tuple[int | None, ...]:
    """The same window, or none, in every layer."""
    layers = keys.count("num_hidden_layers")
    kind = "full_attention" if window is None else "sliding_attention"
    keys.must_be("layer_types", [kind] * layers, None)
    return (window,) * layers


def leaves(spec: DecoderSpec) -> dict[Path, Leaf]:
    """Every weight of the decoder, by its path in the module tree, with its origin in the checkpoint."""
    found: dict[Path, Leaf] = {
        ("embed", "table"): Leaf(EMBEDDING, (spec.vocab_size, spec.width), _as_is, is_matrix=True),
        ("final_norm", "scale"): Leaf(FINAL_NORM, (spec.width,), _as_is),
    }
    if not spec.tied:
        found["head", "table"] = Leaf(HEAD, (spec.vocab_size, spec.width), _as_is, is_matrix=True)
    for layer in range(spec.num_layers):
        for path, leaf in _layer_leaves(spec, f"model.layers.{layer}").items():
            found["layers", layer, *path] = leaf
    return found


def _layer_leaves(spec: DecoderSpec, prefix: str) -> dict[Path, Leaf]:
    found: dict[Path, Leaf] = {}
    for part, projections in (("attention", attention_widths(spec)), ("mlp", mlp_widths(spec))):
        for name, width_in, width_out, bias in projections:
            stem = f"{prefix}.{CHECKPOINT_NAMES[name]}"
            found[part, name, "kernel"] = Leaf(f"{stem}.weight", (width_out, width_in), np.transpose, is_matrix=True)
            if bias:
                found[part, name, "bias"] = Leaf(f"{stem}.bias", (width_out,), _as_is)
    norms: dict[Path, int] = {("attention_norm",): spec.width, ("mlp_norm",): spec.width}
    if spec.qk_norm:
        norms |= {("attention", "query_norm"): spec.head_dim, ("attention", "key_norm"): spec.head_dim}
    for path, width in norms.items():
        name = CHECKPOINT_NAMES[str(path[-1])]
        found[*path, "scale"] = Leaf(f"{prefix}.{name}.weight", (width,), _as_is)
    return found


def ignored(spec: DecoderSpec) -> frozenset[str]:
    """Tensors that a checkpoint may carry and nobody reads: rotary tables, and the head of a tied model."""
    names = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(spec.num_layers)}
    return frozenset(names | {"model.rotary_emb.inv_freq"} | ({HEAD} if spec.tied else set()))


def _as_is(array: np.ndarray) -> np.ndarray:
    return array
