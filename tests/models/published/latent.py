"""Published models with latent attention; see __init__.py."""

from typing import Any

from tests.models.published.sizes import make_config

DEEPSEEK_ROPE = {"type": "yarn", "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0}
DEEPSEEK_ROPE |= {"mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}


LATENT: dict[str, tuple[dict[str, Any], int]] = {
    "Kimi-Linear-48B-A3B": make_config(
        *("kimi_linear", "KimiLinearForCausalLM", 49_122_681_728, 2304, 9216, 27, 32, 32, 163840, 1048576),
        first_k_dense_replace=1,
        head_dim=72,
        hidden_act="silu",
        kv_lora_rank=512,
        linear_attn_config={
            "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
            "head_dim": 128,
            "kda_layers": [layer for layer in range(1, 27) if layer % 4],
            "num_heads": 32,
            "short_conv_kernel_size": 4,
        },
        mla_use_nope=True,
        moe_intermediate_size=1024,
        moe_layer_freq=1,
        moe_renormalize=True,
        moe_router_activation_func="sigmoid",
        num_expert_group=1,
        num_experts=256,
        num_experts_per_token=8,
        num_nextn_predict_layers=0,
        num_shared_experts=1,
        q_lora_rank=None,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        rope_theta=10_000.0,
        routed_scaling_factor=2.446,
        topk_group=1,
        use_grouped_topk=True,
        v_head_dim=128,
    ),
    "MiniCPM3-4B": make_config(
        *("minicpm3", "MiniCPM3ForCausalLM", 4_073_875_968, 2560, 6400, 62, 40, 40, 73448, 32768),
        q_lora_rank=768,
        kv_lora_rank=256,
        qk_nope_head_dim=64,
        qk_rope_head_dim=32,
        scale_emb=12,
        scale_depth=1.4,
        dim_model_base=256,
        rms_norm_eps=1e-5,
    ),
    "DeepSeek-V2-Lite": make_config(
        *("deepseek_v2", "DeepseekV2ForCausalLM", 15_706_484_224, 2048, 10944, 27, 16, 16, 102400, 163840),
        q_lora_rank=None,
        first_k_dense_replace=1,
        moe_intermediate_size=1408,
        n_routed_experts=64,
        num_experts_per_tok=6,
        topk_method="greedy",
        rope_scaling=DEEPSEEK_ROPE | {"mscale": 0.707, "mscale_all_dim": 0.707},
    ),
    "DeepSeek-V2": make_config(
        *("deepseek_v2", "DeepseekV2ForCausalLM", 235_741_434_880, 5120, 12288, 60, 128, 128, 102400, 163840),
        first_k_dense_replace=1,
        moe_intermediate_size=1536,
        n_routed_experts=160,
        num_experts_per_tok=6,
        topk_method="group_limited_greedy",
        n_group=8,
        topk_group=3,
        routed_scaling_factor=16.0,
        rope_scaling=DEEPSEEK_ROPE | {"mscale": 0.707, "mscale_all_dim": 0.707},
    ),
    "DeepSeek-V3": make_config(
        *("deepseek_v3", "DeepseekV3ForCausalLM", 671_026_419_200, 7168, 18432, 61, 128, 128, 129280, 163840),
        rope_scaling=DEEPSEEK_ROPE,
    ),
    "Kimi-K2": make_config(
        *("deepseek_v3", "DeepseekV3ForCausalLM", 1_026_408_232_448, 7168, 18432, 61, 64, 64, 163840, 131072),
        first_k_dense_replace=1,
        n_routed_experts=384,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=2.827,
        rope_theta=50_000.0,
        rope_scaling=DEEPSEEK_ROPE | {"factor": 32.0, "beta_fast": 1.0},
    ),
    "GLM-4.7-Flash": make_config(
        *("glm4_moe_lite", "Glm4MoeLiteForCausalLM", 29_943_393_920, 2048, 10240, 47, 20, 20, 154880, 202752),
        rope_theta=1e6,
    ),
    "Youtu-LLM-2B": make_config(
        *("youtu", "YoutuForCausalLM", 1_961_560_064, 2048, 6144, 32, 16, 16, 128256, 131072),
        q_lora_rank=1536,
        kv_lora_rank=512,
        rope_theta=1_600_000,
        tie_word_embeddings=True,
    ),
}
