"""DecoderSpec from the keys of config.json that the families share: sizes, windows and activations.

Defaults are those of transformers' config classes, because a config.json may leave out what equals its default.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from typing import Any

from jaxserve.layers.mlp import Activation
from jaxserve.layers.norms import NormSpec
from jaxserve.layers.rope import RopeSpec
from jaxserve.models.config_reader import MAX_LAYERS, REQUIRED, ConfigReader
from jaxserve.models.latent_spec import LatentAttentionSpec
from jaxserve.models.rope_config import DEFAULT_ROPE_THETA, read_rope
from jaxserve.models.spec import AttentionKind, AttentionSpec, DecoderSpec, LayerSpec, MLPSpec, MoESpec

ACTIVATION_NAMES: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def read_decoder_spec(
    config: ConfigReader,
    *,
    architecture_name: str,
    model_type: str,
    windows: tuple[int | None, ...] | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    activation_key: str = "hidden_act",
    default_activation: str = "silu",
    rope: RopeSpec | None = None,
    default_theta: float = DEFAULT_ROPE_THETA,
    rope_fraction: float | None = None,
    is_rope_interleaved: bool = False,
    default_max_positions: int | None = None,
    default_vocab_size: int | None = None,
    tie_embeddings: bool = False,
    norm: Mapping[str, Any] | NormSpec | None = None,
    attention: Mapping[str, Any] | LatentAttentionSpec | None = None,
    mlp: Mapping[str, Any] | MLPSpec | None = None,
    layer: Mapping[str, Any] | None = None,
    decoder: Mapping[str, Any] | None = None,
) -> DecoderSpec:
    """Return the spec of a decoder whose layers differ in their windows alone; `replace` what else differs.

    windows None: no layer has one, and the caller reads layer_types. num_kv_heads, head_dim, default_…, rope_fraction
    and tie_embeddings hold where the config says nothing; None: as many key as query heads, which null in the config
    means, too, width / heads, and whole heads that rotate. rope is given where it is spelled in a way of its own. norm,
    attention, mlp, layer and decoder are fields of the specs of these names that differ from what is usual: their
    defaults, scores over the root of head_dim, the eps that rms_norm_eps says (1e-6 if it is absent). A norm, a
    feed-forward block and attention of another kind may be given whole; the arguments that concern heads and positions
    mean nothing beside such attention, nor those of activations beside such a block.

    Raises UnknownArchitecture, naming the key whose value is not understood.
    """
    config.require("model_type", model_type)
    width = config.get_positive_int("hidden_size")
    if windows is None:
        windows = (None,) * config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    max_positions = config.get_positive_int("max_position_embeddings", default_max_positions or REQUIRED)
    if isinstance(attention, LatentAttentionSpec):
        attentions = [attention] * len(windows)
    else:
        num_heads, kv_heads, head_dim = _read_heads(config, width, num_kv_heads, head_dim)
        rope = rope or read_rope(
            config, max_positions, head_dim=head_dim, default_theta=default_theta, default_fraction=rope_fraction
        )
        rope = replace(rope, is_interleaved=True) if is_rope_interleaved else rope
        sizes = {"num_heads": num_heads, "num_kv_heads": kv_heads, "head_dim": head_dim, "rope": rope}
        attention_spec = AttentionSpec(**sizes | {"scale": head_dim**-0.5} | dict(attention or {}))
        attentions = [replace(attention_spec, window=window) for window in windows]
    mlp_spec = mlp if isinstance(mlp, MLPSpec) else _read_mlp(config, mlp or {}, activation_key, default_activation)
    layers = [LayerSpec(attention=each, mlp=mlp_spec, **dict(layer or {})) for each in attentions]
    return DecoderSpec(
        architecture_name=architecture_name,
        vocab_size=config.get_positive_int("vocab_size", default_vocab_size or REQUIRED),
        width=width,
        max_position_embeddings=max_positions,
        norm=norm if isinstance(norm, NormSpec) else _read_norm(config, norm or {}),
        layers=tuple(layers),
        tie_embeddings=config.get_bool("tie_word_embeddings", tie_embeddings),
        **dict(decoder or {}),
    )


def _read_mlp(config: ConfigReader, fields: Mapping[str, Any], activation_key: str, default_activation: str) -> MLPSpec:
    """Return the dense block; what is not among the fields, the config says."""
    fields = dict(fields)
    if "hidden" not in fields:
        fields["hidden"] = config.get_positive_int("intermediate_size")
    if "activation" not in fields:
        fields["activation"] = read_activation(config, activation_key, default_activation)
    return MLPSpec(**fields)


def _read_norm(config: ConfigReader, fields: Mapping[str, Any]) -> NormSpec:
    """Return the kind of all norms; what is not among the fields, the config says."""
    return (
        NormSpec(**fields) if "eps" in fields else NormSpec(config.get_positive_float("rms_norm_eps", 1e-6), **fields)
    )


def _read_heads(
    config: ConfigReader, width: int, num_kv_heads: int | None, head_dim: int | None
) -> tuple[int, int, int]:
    """Return the numbers of query and of key heads, and the size of a head; the latter two have these defaults."""
    num_heads = config.get_positive_int("num_attention_heads")
    # to transformers null means as many as query heads; the family's number holds where the key is absent
    default = num_heads if num_kv_heads is None or config.has("num_key_value_heads") else num_kv_heads
    kv_heads = config.get_positive_int("num_key_value_heads", default)
    if num_heads % kv_heads:
        raise config.unsupported("num_key_value_heads", kv_heads, f"a divisor of num_attention_heads, {num_heads}")
    if not (head_dim or config.get("head_dim", None)) and width % num_heads:
        raise config.unsupported("hidden_size", width, f"a multiple of num_attention_heads, {num_heads}, or a head_dim")
    head_dim = config.get_positive_int("head_dim", head_dim or width // num_heads)
    if head_dim % 2:
        raise config.unsupported("head_dim", head_dim, "an even number, since positions turn pairs")
    return num_heads, kv_heads, head_dim


def read_activation(config: ConfigReader, key: str = "hidden_act", default: str = "silu") -> Activation:
    """Return the activation of feed-forward blocks. Raises UnknownArchitecture for one that is not known."""
    name = config.get(key, default)
    if name not in ACTIVATION_NAMES:
        raise config.unsupported(key, name, " or ".join(map(repr, ACTIVATION_NAMES)))
    if key != "hidden_act":
        config.require("hidden_act", name, None)
    return ACTIVATION_NAMES[name]


def read_top_k(config: ConfigReader, num_experts: int, default: int) -> int:
    """Return how many experts a token has. Raises UnknownArchitecture if that is more than there are."""
    top_k = config.get_positive_int("num_experts_per_tok", default)
    if top_k > num_experts:
        raise config.unsupported("num_experts_per_tok", top_k, f"at most the {num_experts} experts that there are")
    return top_k


def with_mlps(spec: DecoderSpec, mlps: tuple[MLPSpec | MoESpec | None, ...]) -> DecoderSpec:
    """Return the spec with these feed-forward blocks, one a layer; None: none."""
    return replace(spec, layers=tuple(replace(layer, mlp=mlp) for layer, mlp in zip(spec.layers, mlps, strict=True)))


def with_attention(spec: DecoderSpec, attention: AttentionKind, indices: Container[int]) -> DecoderSpec:
    """Return the spec with another kind of attention in the layers of these indices."""
    layers = enumerate(spec.layers)
    return replace(
        spec,
        layers=tuple(replace(layer, attention=attention) if index in indices else layer for index, layer in layers),
    )


def with_ropes(spec: DecoderSpec, ropes: tuple[RopeSpec | None, ...]) -> DecoderSpec:
    """Return the spec with these rotations, one a layer."""
    layers = zip(spec.layers, ropes, strict=True)
    return replace(
        spec, layers=tuple(replace(layer, attention=replace(layer.attention, rope=rope)) for layer, rope in layers)
    )


def with_typed_ropes(spec: DecoderSpec, ropes: Mapping[str, RopeSpec]) -> DecoderSpec:
    """Return the spec with the rotation of sliding_attention in layers with a window, of full_attention in others."""
    return with_ropes(spec, tuple(ropes["sliding_attention" if has else "full_attention"] for has in has_windows(spec)))


def has_windows(spec: DecoderSpec) -> list[bool]:
    """Return whether each layer's attention has a window."""
    attentions = (layer.attention for layer in spec.layers)
    return [isinstance(each, AttentionSpec) and each.window is not None for each in attentions]


def list_ropes(spec: DecoderSpec) -> list[RopeSpec | None]:
    """Return the rotation of each layer's softmax attention; None where there is none."""
    attentions = (layer.attention for layer in spec.layers)
    return [each.rope if isinstance(each, AttentionSpec) else None for each in attentions]


def without_ropes_in_full_layers(spec: DecoderSpec) -> DecoderSpec:
    """Return the spec with rotations in layers with a window alone."""
    ropes = zip(list_ropes(spec), has_windows(spec), strict=True)
    return with_ropes(spec, tuple(rope if has_window else None for rope, has_window in ropes))


def read_layers_of(
    config: ConfigReader, kinds: tuple[str, ...], others: tuple[str, ...], default_types: list[str]
) -> list[int]:
    """Return the indices of layers that are of these kinds by `layer_types`.

    Raises UnknownArchitecture for layers of neither these kinds nor the others, and for more or fewer entries than
    layers.
    """
    types = _read_types(config, (*kinds, *others), default_types)
    return [index for index, kind in enumerate(types) if kind in kinds]


def read_rotating_layers(config: ConfigReader) -> list[int]:
    """Return 1 for each layer that rotates, else 0: by `no_rope_layers`, or all but every so-many-th.

    Raises UnknownArchitecture for other numbers, and for more or fewer entries than layers.
    """
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    interval = config.get_positive_int("no_rope_layer_interval", 4)
    rotates = config.get("no_rope_layers", [])
    if rotates == []:  # Llama 4's files have an empty list, too
        rotates = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    if not isinstance(rotates, list) or len(rotates) != num_layers or any(value not in (0, 1) for value in rotates):
        raise config.unsupported("no_rope_layers", rotates, f"{num_layers} entries, 1 where a layer rotates, else 0")
    return rotates


def read_kernel_size(config: ConfigReader, name: str, default: int) -> int:
    """Return the tokens of a short convolution. Raises UnknownArchitecture for fewer than two."""
    kernel_size = config.get_positive_int(name, default)
    if kernel_size < 2:
        raise config.unsupported(name, kernel_size, "2 or more")
    return kernel_size


def read_layer_config(config: ConfigReader, indices: list[int]) -> ConfigReader:
    """Return what these layers, and no others, have of their own where `per_layer_config` says it layer by layer.

    Raises UnknownArchitecture for other layers, and for layers that differ.
    """
    values = config.get("per_layer_config", {})
    if not values:
        return ConfigReader({})
    if isinstance(values, Mapping) and all(str(index).isdigit() for index in values):
        first = next(iter(values.values()))
        is_understood = isinstance(first, Mapping) and all(value == first for value in values.values())
        if is_understood and {int(index) for index in values} == set(indices):
            return ConfigReader(first, where="config.json, per_layer_config")
    raise config.unsupported("per_layer_config", values, f"the same values for each of the layers {indices}")


def read_layer_windows(
    config: ConfigReader, *, default_start: int = 28, default_window: int = 4096
) -> tuple[int | None, ...]:
    """Return Qwen's windows: the layers named in `layer_types`, or those from `max_window_layers` on, if used at all.

    Raises UnknownArchitecture for other types, and for more or fewer entries than layers.
    """
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    used = config.get_bool("use_sliding_window", False)
    window, start = config.get("sliding_window", default_window), config.get("max_window_layers", default_start)
    if used:
        window = config.get_positive_int("sliding_window", default_window)
    default_types = ["sliding_attention" if used and i >= start else "full_attention" for i in range(num_layers)]
    allowed = {"full_attention": None} | ({"sliding_attention": window} if used else {})
    return tuple(allowed[kind] for kind in _read_types(config, allowed, default_types))


def read_window(config: ConfigReader) -> int | None:
    """Return the window of `sliding_window`; None where the key is absent or null."""
    return config.get_positive_int("sliding_window") if config.get("sliding_window", None) is not None else None


def uniform_windows(config: ConfigReader, window: int | None) -> tuple[int | None, ...]:
    """Return the same window, or none, for every layer; other layer types are refused."""
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    kind = "full_attention" if window is None else "sliding_attention"
    config.require("layer_types", [kind] * num_layers, None)
    return (window,) * num_layers


def read_typed_windows(
    config: ConfigReader,
    window: int | None,
    *,
    full_every: int | None = None,
    is_first_full: bool = False,
    default_types: list[str] | None = None,
) -> tuple[int | None, ...]:
    """Return each layer's window by `layer_types`: `window` where that says sliding_attention, else None.

    Without layer_types every full_every-th layer is full, counted to the last one or from the first one on, or they are
    default_types. window None: no layer may slide.
    Raises UnknownArchitecture for other types, and for more or fewer entries than layers.
    """
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    if default_types is None:
        every, first = full_every or 1, 0 if is_first_full else 1
        is_full = [(index + first) % every == 0 for index in range(num_layers)]
        default_types = ["full_attention" if full else "sliding_attention" for full in is_full]
    allowed = {"full_attention": None} | ({} if window is None else {"sliding_attention": window})
    return tuple(allowed[kind] for kind in _read_types(config, allowed, default_types))


def _read_types(config: ConfigReader, kinds: Iterable[str], default_types: list[str]) -> list[str]:
    """Return the kind of each layer by `layer_types`."""
    kinds, num_layers = tuple(kinds), config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    types = config.get("layer_types", default_types)
    if not isinstance(types, list) or len(types) != num_layers or any(kind not in kinds for kind in types):
        raise config.unsupported("layer_types", types, f"{num_layers} entries, each {' or '.join(map(repr, kinds))}")
    return types


def read_nullable_float(config: ConfigReader, name: str, default: float | None) -> float | None:
    """Return a number above 0; where the key is absent the default, where it is null none.

    Raises UnknownArchitecture unless the value is a number above 0.
    """
    if not config.has(name):
        return default
    return None if config.get(name, None) is None else config.get_positive_float(name)
