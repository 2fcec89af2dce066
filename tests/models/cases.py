"""Configs that between them use every field of DecoderSpec, in the words of transformers 5 and, twice, of 4."""

from typing import Any

from tests.models.tiny import tiny_config

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
OLD_LLAMA = {key: value for key, value in tiny_config("llama").items() if key not in ("rope_parameters", "dtype")}

CASES: dict[str, dict[str, Any]] = {
    "llama 2: every head its own key": tiny_config("llama")
    | {"rope_parameters": PLAIN_ROPE, "num_key_value_heads": 4, "tie_word_embeddings": False},
    "llama 3: shared keys, llama3 positions, tied": tiny_config("llama"),
    "llama with a free head size and biases": tiny_config("llama")
    | {"head_dim": 24, "attention_bias": True, "mlp_bias": True},
    "llama with linear positions, transformers 4": OLD_LLAMA
    | {"rope_theta": 20_000.0, "rope_scaling": {"type": "linear", "factor": 2.0}, "torch_dtype": "float32"},
    "mistral with a window": tiny_config("mistral"),
    "mistral without a window": tiny_config("mistral") | {"sliding_window": None},
    "qwen2 with windows in some layers": tiny_config("qwen2"),
    "qwen2 with layer types": tiny_config("qwen2")
    | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "qwen2 with yarn": tiny_config("qwen2") | {"use_sliding_window": False, "rope_parameters": YARN_ROPE},
    "qwen3: normed heads of a free size": tiny_config("qwen3"),
    "qwen3 with biases, tied": tiny_config("qwen3") | {"attention_bias": True, "tie_word_embeddings": True},
}
