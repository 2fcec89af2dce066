"""Bamba: Mamba-2 in most layers, attention in those of `attn_layer_indices`, of which half of each head rotates."""

from jaxserve.models.config_reader import MAX_LAYERS, ConfigReader
from jaxserve.models.config_values import read_decoder_spec, with_attention
from jaxserve.models.family import LLAMA_LAYOUT, DecoderFamily, TensorNames
from jaxserve.models.mamba2_values import MAMBA2, read_mamba2
from jaxserve.models.spec import AttentionSpec, DecoderSpec

LAYOUT = {
    **LLAMA_LAYOUT,
    **MAMBA2,
    **{name: f"feed_forward.{name}_proj" for name in ("gate", "up", "down")},
    "mlp_norm": "pre_ff_layernorm",
}


def _read(config: ConfigReader) -> DecoderSpec:
    num_layers = config.get_positive_int("num_hidden_layers", maximum=MAX_LAYERS)
    attended, bias = config.get("attn_layer_indices", []), config.get_bool("attention_bias", False)
    if not isinstance(attended, list) or not all(index in range(num_layers) for index in attended):
        raise config.unsupported("attn_layer_indices", attended, f"indices of the {num_layers} layers")
    config.ignore("num_logits_to_keep", "z_loss_coefficient")
    config.require("partial_rotary_factor", 0.5, None)
    spec = read_decoder_spec(
        config,
        architecture_name="BambaForCausalLM",
        model_type="bamba",
        num_kv_heads=8,
        rope_fraction=0.5,
        default_max_positions=262_144,
        default_vocab_size=128_000,
        norm={"eps": config.get_positive_float("rms_norm_eps", 1e-5)},
        attention={"qkv_bias": bias, "output_bias": bias},
        mlp={"bias": config.get_bool("mlp_bias", False)},
    )
    attention = spec.layers[0].attention
    assert isinstance(attention, AttentionSpec) and attention.rope is not None
    config.require("attn_rotary_emb", attention.rope.rotary_dim or attention.head_dim, None)
    return with_attention(spec, read_mamba2(config), [i for i in range(num_layers) if i not in attended])


NAMES = TensorNames(layouts=(LAYOUT,), final_norm="model.final_layernorm")
ARCHITECTURE = DecoderFamily(_read, NAMES)
