"""MiMo V2 Flash: values smaller than keys, windows with sinks and twice the key heads, a mixture as DeepSeek-V3's."""

from dataclasses import replace

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import (
    read_decoder_spec,
    read_nullable_float,
    read_typed_windows,
    with_typed_ropes,
)
from jaxserve.models.family import EXPERTS, FUSED_EXPERTS, SHARED_EXPERTS, STACKED_EXPERTS, DecoderFamily, named
from jaxserve.models.moe_values import read_deepseek_moe, read_sparse_types, with_experts
from jaxserve.models.rope_config import ThetaKey, read_typed_ropes
from jaxserve.models.spec import AttentionSpec, DecoderSpec, LayerSpec

THETAS = {
    "full_attention": ThetaKey("rope_theta", 5_000_000.0),
    "sliding_attention": ThetaKey("swa_rope_theta", 10_000.0),
}


def _read(config: ConfigReader) -> DecoderSpec:
    config.rename({"layernorm_epsilon": "rms_norm_eps", "swa_num_key_value_heads": "num_window_key_value_heads"})
    _read_marks(config, "hybrid_layer_pattern", "layer_types", tuple(THETAS))
    _read_marks(config, "moe_layer_freq", "mlp_layer_types", ("dense", "sparse"))
    ropes = read_typed_ropes(
        config, THETAS, default_max_positions=131_072, default_head_dim=192, default_fraction=0.334
    )
    spec = read_decoder_spec(
        config,
        architecture_name="MiMoV2FlashForCausalLM",
        model_type="mimo_v2_flash",
        windows=_read_windows(config),
        num_kv_heads=4,
        head_dim=192,
        rope=ropes["full_attention"],
        default_max_positions=131_072,
        default_vocab_size=152_576,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={
            "qkv_bias": config.get_bool("attention_bias", False),
            "value_dim": config.get_positive_int("v_head_dim", 128),
            "value_multiplier": read_nullable_float(config, "attention_value_scale", 0.707) or 1.0,
        },
    )
    _check_windows(config, spec)
    spec = replace(spec, layers=tuple(_widen(layer) for layer in spec.layers))
    moe = read_deepseek_moe(config, num_experts=256, top_k=8, hidden=2048, num_shared=0, renormalize=True)
    return with_experts(with_typed_ropes(spec, ropes), moe, read_sparse_types(config, spec.num_layers, num_dense=1))


def _read_marks(config: ConfigReader, name: str, types_name: str, kinds: tuple[str, ...]) -> None:
    """Read the marks of layers in published files, 0 or 1 each, as the types that transformers makes of them."""
    marks = config.get(name, None)
    if marks is None:
        return
    if not isinstance(marks, list) or any(mark not in (0, 1) for mark in marks):
        raise config.unsupported(name, marks, "0 or 1 for each layer")
    types = [kinds[bool(mark)] for mark in marks]
    if config.get(types_name, types) != types:
        raise config.unsupported(name, marks, f"the layers that {types_name} says")
    config.replace(name, None)
    config.replace(types_name, types)


def _read_windows(config: ConfigReader) -> tuple[int | None, ...]:
    """Return each layer's window. sliding_window_size counts the tokens before a token, sliding_window that, too."""
    window = config.get_positive_int("sliding_window", 129)
    if config.get("sliding_window_size", None) is not None:
        window = config.get_positive_int("sliding_window_size") + 1
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    types = ["sliding_attention" if at > 0 and (at + 1) % 6 > 0 else "full_attention" for at in range(num_layers)]
    return read_typed_windows(config, window, default_types=types)


def _widen(layer: LayerSpec) -> LayerSpec:
    """Return a layer with sinks and twice as many key heads, if it has a window."""
    attention = layer.attention
    assert isinstance(attention, AttentionSpec)
    if attention.window is None:
        return layer
    return replace(layer, attention=replace(attention, num_kv_heads=2 * attention.num_kv_heads, has_sinks=True))


def _check_windows(config: ConfigReader, spec: DecoderSpec) -> None:
    """Require of keys that published configs have for layers with windows what transformers takes for them."""
    attention = spec.layers[0].attention
    assert isinstance(attention, AttentionSpec)
    heads, kv_heads = attention.num_heads, 2 * attention.num_kv_heads
    if heads % kv_heads:
        raise config.unsupported("num_key_value_heads", kv_heads // 2, f"a divisor of half of the {heads} query heads")
    config.require_each({"num_window_key_value_heads": kv_heads, "swa_num_attention_heads": heads})
    config.require_each({"swa_head_dim": attention.head_dim, "swa_v_head_dim": attention.value_dim})
    config.require_each({"add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False})
    config.ignore("attention_chunk_size", "hybrid_block_size")


SINKS = {"sinks": "self_attn.attention_sink_bias"}
IN_MEMORY = {**FUSED_EXPERTS, "sinks": "self_attn.sinks"}
NAMES = named({**EXPERTS, **SHARED_EXPERTS, **SINKS}, STACKED_EXPERTS, IN_MEMORY)
ARCHITECTURE = DecoderFamily(_read, NAMES, unread=("model.mtp.*",))
