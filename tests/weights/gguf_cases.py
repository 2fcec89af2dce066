"""Configs of every family whose GGUF files are read, in what such files can say of them."""

from typing import Any

from tests.models.cases import LONGROPE, PLAIN_ROPE, YARN_ROPE
from tests.models.tiny import tiny_config


def config(architecture: str, *without: str, **changes: Any) -> dict[str, Any]:
    """The tiny config without these keys, and with these changes."""
    return {key: value for key, value in tiny_config(architecture).items() if key not in without} | changes


GEMMA3_ROPE = config("gemma3")["rope_parameters"]
MINISTRAL3_ROPE = config("ministral3")["rope_parameters"]
CASES = {
    "gemma2": config("gemma2"),
    "gemma2 of 46 layers: scores by width a head": config(
        "gemma2", num_hidden_layers=46, hidden_size=16, intermediate_size=8, query_pre_attn_scalar=4
    ),
    "gemma3: a period of six layers": config("gemma3", "layer_types", num_hidden_layers=7),
    "gemma3: scaled positions, a soft cap, untied": config(
        "gemma3",
        "layer_types",
        tie_word_embeddings=False,
        final_logit_softcapping=3.0,
        rope_parameters=GEMMA3_ROPE
        | {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500_000.0}},
    ),
    "granite": config("granite"),
    "granite with biases, untied": config("granite", attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
    "llama": config("llama", rope_parameters=PLAIN_ROPE),
    "mistral small 3.1": config("mistral", sliding_window=None),
    "ministral 3": config("ministral3"),
    "ministral 3, tied, another slope": config(
        "ministral3",
        tie_word_embeddings=True,
        rope_parameters=MINISTRAL3_ROPE | {"beta_fast": 20.0, "mscale_all_dim": 0.5},
    ),
    "mixtral": config("mixtral"),
    "mixtral of five experts": config("mixtral", num_local_experts=5, num_experts_per_tok=3),
    "olmo2": config("olmo2"),
    "olmo2 with yarn": config("olmo2", rope_parameters=YARN_ROPE),
    "phi3": config("phi3"),
    "phi3 with a window, shared keys": config("phi3", sliding_window=24, num_key_value_heads=2),
    "phi4-mini: longrope, part of a head": config("phi3", tie_word_embeddings=True) | LONGROPE,
    "qwen2": config("qwen2", use_sliding_window=False),
    "qwen3": config("qwen3"),
    "qwen3 moe": config("qwen3_moe", mlp_only_layers=[]),
    "smollm3": config("smollm3", "no_rope_layers", num_hidden_layers=5),
    "stablelm": config("stablelm"),
    "stablelm, parallel, tied": config(
        "stablelm", use_qkv_bias=False, use_parallel_residual=True, tie_word_embeddings=True
    ),
    "starcoder2": config("starcoder2", sliding_window=4096),
    "starcoder2 without biases, untied": config(
        "starcoder2", sliding_window=4096, use_bias=False, tie_word_embeddings=False
    ),
    "smollm3 with biases, a head size": config("smollm3", "no_rope_layers", head_dim=24, attention_bias=True),
}
