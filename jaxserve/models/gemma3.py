"""Gemma 3, text: Gemma 2 with normed query and key heads, a rotation for each kind of layer, and no soft caps."""

from jaxserve.models.config_reader import ConfigReader
from jaxserve.models.config_values import read_decoder_spec, read_nullable_float, read_typed_windows, with_typed_ropes
from jaxserve.models.family import SANDWICH, DecoderFamily, named
from jaxserve.models.rope_config import ThetaKey, read_typed_ropes
from jaxserve.models.spec import DecoderSpec

THETAS = {
    "full_attention": ThetaKey("rope_theta", 1_000_000.0),
    "sliding_attention": ThetaKey("rope_local_base_freq", 10_000.0),
}


def _read(config: ConfigReader) -> DecoderSpec:
    bias = config.get_bool("attention_bias", False)
    window = config.get_positive_int("sliding_window", 4096)
    is_bidirectional = config.get_bool("use_bidirectional_attention", False)  # EmbeddingGemma
    if is_bidirectional:
        window = window // 2 + 1  # on each side, the token itself included
    # transformers 5 writes the pattern with an underscore, beside the layer_types that it made of it.
    pattern = config.get_positive_int("sliding_window_pattern", config.get("_sliding_window_pattern", 6))
    windows = read_typed_windows(config, window, full_every=pattern)
    ropes = read_typed_ropes(config, THETAS, default_max_positions=131_072, default_head_dim=256)
    spec = read_decoder_spec(
        config,
        architecture_name="Gemma3ForCausalLM",
        model_type="gemma3_text",
        windows=windows,
        num_kv_heads=4,
        head_dim=256,
        activation_key="hidden_activation",
        default_activation="gelu_pytorch_tanh",
        norm={"kind": "rms_plus_one"},
        tie_embeddings=True,
        rope=ropes["full_attention"],
        attention={
            "scale": config.get_positive_float("query_pre_attn_scalar", 256) ** -0.5,
            "softcap": read_nullable_float(config, "attn_logit_softcapping", None),
            "qkv_bias": bias,
            "output_bias": bias,
            "qk_norm": "head",
        },
        layer={"norm_place": "sandwich"},
        decoder={
            "embedding_multiplier": config.get_positive_int("hidden_size") ** 0.5,
            "logits_softcap": read_nullable_float(config, "final_logit_softcapping", None),
            "is_bidirectional": is_bidirectional,
        },
        default_max_positions=131_072,
        default_vocab_size=262_208,
    )
    return with_typed_ropes(spec, ropes)


ARCHITECTURE = DecoderFamily(_read, named(SANDWICH))
