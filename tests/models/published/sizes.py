"""What the tables of published models share: their form, and families that have models of several kinds."""

from typing import Any


def make_sizes(
    width: int, hidden: int, layers: int, heads: int, kv_heads: int, vocab: int, length: int
) -> dict[str, Any]:
    """The sizes that every config.json has."""
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": length,
    }


def make_config(model_type: str, name: str, num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    """A config.json and its number of parameters."""
    return {"architectures": [name], "model_type": model_type} | make_sizes(*sizes) | other, num_params


def gemma4(
    num_params: int, *sizes: int, model_type: str = "gemma4_text", name: str = "Gemma4ForCausalLM", **other: Any
) -> tuple[dict[str, Any], int]:
    gemma = {"head_dim": 256, "global_head_dim": 512, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0}
    gemma |= {"sliding_window": 1024, "final_logit_softcapping": 30.0, "use_bidirectional_attention": "vision"}
    return make_config(model_type, name, num_params, *sizes, 262_144, 262_144, **(gemma | other))


def granite4(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    granite = {"embedding_multiplier": 12, "residual_multiplier": 0.22, "tie_word_embeddings": True}
    granite |= {"mamba_d_conv": 4, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1}
    granite |= {"layer_types": ["attention" if layer % 10 == 5 else "mamba" for layer in range(40)]}
    granite |= {"normalization_function": "rmsnorm", "position_embedding_type": "nope"}
    return make_config(
        *("granitemoehybrid", "GraniteMoeHybridForCausalLM", num_params, *sizes, 100_352, 131_072), **granite | other
    )
