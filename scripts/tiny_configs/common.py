"""What tiny models share: the sizes of all, and rotations and blocks of several."""

from typing import Any

COMMON: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "vocab_size": 272,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "dtype": "float32",
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
