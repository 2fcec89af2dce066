"""Sizes of tiny models with latent attention."""

from typing import Any

from scripts.tiny_configs.common import PLAIN_ROPE

LATENT_SIZES = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
DEEPSEEK_EXPERTS = {
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}
LATENT: dict[str, dict[str, Any]] = {
    "deepseek_v2": LATENT_SIZES
    | DEEPSEEK_EXPERTS
    | {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "topk_method": "group_limited_greedy",
        "norm_topk_prob": False,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 64,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
        },
    },
    "deepseek_v3": LATENT_SIZES
    | DEEPSEEK_EXPERTS
    | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "norm_topk_prob": True,
        "rope_interleave": True,
        "rope_parameters": PLAIN_ROPE,
    },
    "glm4_moe_lite": LATENT_SIZES
    | DEEPSEEK_EXPERTS
    | {
        "architectures": ["Glm4MoeLiteForCausalLM"],
        "model_type": "glm4_moe_lite",
        "first_k_dense_replace": None,
        "mlp_layer_types": ["dense", "sparse", "sparse"],
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "rope_interleave": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    },
    "youtu": LATENT_SIZES
    | {
        "architectures": ["YoutuForCausalLM"],
        "model_type": "youtu",
        "pad_token_id": None,  # whose embedding transformers would replace by zeros
        "rope_interleave": True,
        "tie_word_embeddings": True,
        "rope_parameters": PLAIN_ROPE,
    },
    "minicpm3": LATENT_SIZES
    | {
        "architectures": ["MiniCPM3ForCausalLM"],
        "model_type": "minicpm3",
        "scale_emb": 3,
        "scale_depth": 1.4,
        "dim_model_base": 32,
        "tie_word_embeddings": True,
        "rope_parameters": PLAIN_ROPE,
    },
}
