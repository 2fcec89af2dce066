"""Keys of the config.json of published models that __init__.py leaves out, since they concern no size.

Their values change nothing, and every one of these keys must be known.
"""

from typing import Any

TOKENS_AND_TRAINING: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.4",
    "use_cache": True,
}

OTHER_KEYS: dict[str, dict[str, Any]] = {
    "Nemotron-3-Nano-30B-A3B": TOKENS_AND_TRAINING
    | {
        "auto_map": {"AutoConfig": "configuration_nemotron_h.NemotronHConfig"},
        "hidden_dropout": 0.0,
        "mamba_proj_bias": False,
        "mamba_ssm_cache_dtype": "float32",
        "mlp_bias": False,
        "moe_shared_expert_overlap": True,
        "norm_eps": 1e-05,
        "partial_rotary_factor": 1.0,
        "rescale_prenorm_residual": True,
        "rope_theta": 10000,
        "time_step_floor": 0.0001,
        "time_step_max": 0.1,
        "torch_dtype": "bfloat16",
        "use_bias": False,
        "use_mamba_kernels": True,
    },
    "Falcon-H1-0.5B": TOKENS_AND_TRAINING
    | {
        "attn_layer_indices": None,
        "hidden_act": "silu",
        "mamba_chunk_size": 128,
        "mamba_conv_bias": True,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_n_groups": 1,
        "mamba_proj_bias": False,
        "mlp_bias": False,
        "num_logits_to_keep": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "time_step_floor": 0.0001,
        "time_step_max": 0.1,
        "time_step_min": 0.001,
        "torch_dtype": "bfloat16",
    },
    "Mellum2-12B-A2.5B": TOKENS_AND_TRAINING
    | {
        "dtype": "bfloat16",
        "hidden_act": "silu",
        "max_window_layers": 0,
        "mlp_layer_types": ["sparse"] * 28,
        "norm_topk_prob": True,
        "output_router_logits": False,
        "rms_norm_eps": 1e-06,
        "router_aux_loss_coef": 0.001,
        "use_sliding_window": True,
    },
}
