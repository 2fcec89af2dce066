"""Published models with recurrent layers; see __init__.py."""

from typing import Any

from tests.models.published.sizes import granite4, make_config


def _qwen3_next(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    rope = {"rope_theta": 1e7, "partial_rotary_factor": 0.25}
    experts = {"num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512, "norm_topk_prob": True}
    experts |= {"shared_expert_intermediate_size": 512, "decoder_sparse_step": 1, "mlp_only_layers": []}
    delta = {"full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32}
    delta |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "head_dim": 256}
    return make_config("qwen3_next", "Qwen3NextForCausalLM", num_params, *sizes, **rope, **experts, **delta, **other)


def _nemotron_h(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    nemotron = {"chunk_size": 128, "conv_kernel": 4, "expand": 2, "head_dim": 128, "layer_norm_epsilon": 1e-5}
    nemotron |= {"mamba_head_dim": 64, "mamba_hidden_act": "silu", "mlp_hidden_act": "relu2", "n_groups": 8}
    nemotron |= {"num_logits_to_keep": 1, "residual_in_fp32": False, "sliding_window": None, "ssm_state_size": 128}
    nemotron |= {"time_step_limit": [0.0, float("inf")], "time_step_min": 0.001, "use_conv_bias": True}
    return make_config("nemotron_h", "NemotronHForCausalLM", num_params, *sizes, **nemotron | other)


RECURRENT: dict[str, tuple[dict[str, Any], int]] = {
    "granite-4.0-h-micro": granite4(
        *(3_191_396_096, 2048, 8192, 40, 32, 8),
        attention_multiplier=0.015625,
        logits_scaling=8,
        mamba_n_heads=64,
        num_local_experts=0,
        num_experts_per_tok=0,
        shared_intermediate_size=8192,
    ),
    "granite-4.0-h-tiny": granite4(
        *(6_939_037_248, 1536, 512, 40, 12, 4),
        attention_multiplier=0.0078125,
        logits_scaling=6,
        mamba_n_heads=48,
        num_local_experts=64,
        num_experts_per_tok=6,
        shared_intermediate_size=1024,
    ),
    "granite-4.0-h-small": granite4(
        *(32_207_337_984, 4096, 768, 40, 32, 8),
        attention_multiplier=0.0078125,
        logits_scaling=16,
        mamba_n_heads=128,
        num_local_experts=72,
        num_experts_per_tok=10,
        shared_intermediate_size=1536,
    ),
    "Bamba-9B-v1": make_config(
        *("bamba", "BambaForCausalLM", 9_780_235_392, 4096, 14336, 32, 32, 8, 128_256, 262_144),
        attn_layer_indices=[9, 18, 27],
        attn_rotary_emb=64,
        mamba_d_head=64,
        mamba_d_state=128,
        mamba_n_heads=128,
        rope_theta=10_000.0,
    ),
    "Falcon-H1-0.5B": make_config(  # the norms that two blocks read are counted twice, 36 * 1024
        *("falcon_h1", "FalconH1ForCausalLM", 521_447_968, 1024, 2048, 36, 8, 2, 32_784, 16_384),
        attention_in_multiplier=1.0,
        attention_out_multiplier=0.9375,
        embedding_multiplier=5.656854249492381,
        head_dim=64,
        key_multiplier=0.390625,
        lm_head_multiplier=0.0390625,
        mamba_d_head=64,
        mamba_d_ssm=1536,
        mamba_d_state=128,
        mamba_n_heads=24,
        mamba_norm_before_gate=False,
        mamba_rms_norm=False,
        mamba_use_mlp=True,
        mlp_expansion_factor=8,
        mlp_multipliers=[0.8838834764831844, 0.5859375],
        projectors_bias=False,
        rope_theta=1e11,
        ssm_in_multiplier=1.25,
        ssm_multipliers=[0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
        ssm_out_multiplier=0.23570226039551587,
    ),
    "Nemotron-H-8B": _nemotron_h(
        *(8_100_852_736, 4096, 21504, 52, 32, 8, 131_072, 8192),
        hybrid_override_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
        attention_head_dim=128,
        mamba_num_heads=128,
    ),
    "Nemotron-Nano-9B-v2": _nemotron_h(
        *(8_888_227_328, 4480, 15680, 56, 40, 8, 131_072, 131_072),
        hybrid_override_pattern="M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-",
        mamba_head_dim=80,
        mamba_num_heads=128,
    ),
    "Nemotron-3-Nano-30B-A3B": _nemotron_h(  # with what corrects the choice, 23 * 128
        *(31_577_940_288, 2688, 1856, 52, 32, 2, 131_072, 262_144),
        hybrid_override_pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
        mamba_num_heads=64,
        moe_intermediate_size=1856,
        moe_shared_expert_intermediate_size=3712,
        n_group=1,
        n_routed_experts=128,
        n_shared_experts=1,
        norm_topk_prob=True,
        num_experts_per_tok=6,
        routed_scaling_factor=2.5,
        topk_group=1,
    ),
    "LFM2-1.2B": make_config(
        *("lfm2", "Lfm2ForCausalLM", 1_170_340_608, 2048, 12288, 16, 32, 8, 65_536, 128_000),
        full_attn_idxs=[2, 5, 8, 10, 12, 14],
        rope_theta=1e6,
        tie_word_embeddings=True,
    ),
    "LFM2-8B-A1B": make_config(
        *("lfm2_moe", "Lfm2MoeForCausalLM", 8_339_930_560, 2048, 7168, 24, 32, 8, 65_536, 128_000),
        layer_types=["full_attention" if layer in (2, 6, 10, 14, 18, 21) else "conv" for layer in range(24)],
        num_experts=32,
        num_experts_per_tok=4,
        moe_intermediate_size=1792,
        rope_theta=1e6,
        tie_word_embeddings=True,
    ),
    "Qwen3-Next-80B-A3B": _qwen3_next(79_674_391_296, 2048, 5120, 48, 16, 2, 151936, 262144),
    "Qwen3.5-9B, text": make_config(
        *("qwen3_5_text", "Qwen3_5ForCausalLM", 8_953_803_264, 4096, 12288, 32, 16, 4, 248320, 32768), head_dim=256
    ),
    "Qwen3.5-35B-A3B, text": (
        {
            "architectures": ["Qwen3_5MoeForCausalLM"],
            "model_type": "qwen3_5_moe_text",
            "hidden_size": 2048,
            "num_hidden_layers": 40,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 248320,
            "max_position_embeddings": 32768,
        },
        34_660_610_688,
    ),
}
