"""Published models with mixtures of experts; see __init__.py."""

from typing import Any

from tests.models.published.sizes import gemma4, make_config


def _glm4_moe(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    glm = {"head_dim": 128, "rope_theta": 1e6, "partial_rotary_factor": 0.5, "attention_bias": True}
    return make_config("glm4_moe", "Glm4MoeForCausalLM", num_params, *sizes, 151_552, 131_072, **glm, **other)


def _gpt_oss(num_params: int, layers: int, **other: Any) -> tuple[dict[str, Any], int]:
    rope = {"rope_type": "yarn", "rope_theta": 150_000, "factor": 32.0, "original_max_position_embeddings": 4096}
    gpt_oss = {"head_dim": 64, "num_experts_per_tok": 4, "rope_parameters": rope | {"truncate": False}}
    return make_config(
        *("gpt_oss", "GptOssForCausalLM", num_params, 2880, 2880, layers, 64, 8, 201_088, 131_072), **gpt_oss, **other
    )


EXPERTS: dict[str, tuple[dict[str, Any], int]] = {
    "Mixtral-8x7B": make_config(
        *("mixtral", "MixtralForCausalLM", 46_702_792_704, 4096, 14336, 32, 32, 8, 32000, 32768),
        num_local_experts=8,
        num_experts_per_tok=2,
    ),
    "Qwen3-30B-A3B": make_config(
        *("qwen3_moe", "Qwen3MoeForCausalLM", 30_532_122_624, 2048, 6144, 48, 32, 4, 151936, 40960),
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=True,
    ),
    "GLM-4.5-Air": _glm4_moe(106_852_251_264, *(4096, 10944, 46, 96, 8), moe_intermediate_size=1408),
    "dots.llm1": make_config(
        *("dots1", "Dots1ForCausalLM", 142_774_381_696, 4096, 10944, 62, 32, 32, 152_064, 32_768),
        n_routed_experts=128,
        n_shared_experts=2,
        num_experts_per_tok=6,
        moe_intermediate_size=1408,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        sliding_window=None,
    ),
    "Qwen1.5-MoE-A2.7B": make_config(
        *("qwen2_moe", "Qwen2MoeForCausalLM", 14_315_784_192, 2048, 5632, 24, 16, 16, 151_936, 8192),
        num_experts=60,
        num_experts_per_tok=4,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
        rope_theta=1e6,
    ),
    "OLMoE-1B-7B-0924": make_config(
        *("olmoe", "OlmoeForCausalLM", 6_919_161_856, 2048, 1024, 16, 16, 16, 50_304, 4096),
        num_experts=64,
        num_experts_per_tok=8,
    ),
    "FlexOlmo-7x7B-1T": make_config(
        *("flex_olmo", "FlexOlmoForCausalLM", 33_270_665_216, 4096, 11008, 32, 32, 32, 100_352, 4096),
        num_experts=7,
        num_experts_per_tok=5,
    ),
    "Llama-4-Scout-17B-16E": make_config(
        *("llama4_text", "Llama4ForCausalLM", 107_769_861_120, 5120, 8192, 48, 40, 8, 202_048, 10_485_760),
        head_dim=128,
        intermediate_size_mlp=16_384,
        num_local_experts=16,
        num_experts_per_tok=1,
        rope_theta=5e5,
    ),
    "ERNIE-4.5-21B-A3B": make_config(
        *("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", 21_825_437_888, 2560, 12288, 28, 20, 4, 103_424, 131_072),
        moe_num_experts=64,
        moe_k=6,
        moe_intermediate_size=1536,
        moe_num_shared_experts=2,
        moe_layer_start_index=1,
        tie_word_embeddings=True,
    ),
    "granite-3.1-1b-a400m": make_config(
        *("granitemoe", "GraniteMoeForCausalLM", 1_334_628_352, 1024, 512, 24, 16, 8, 49_155, 131_072),
        num_local_experts=32,
        num_experts_per_tok=8,
        embedding_multiplier=12.0,
        attention_multiplier=0.015625,
        residual_multiplier=0.22,
        logits_scaling=6.0,
        tie_word_embeddings=True,
    ),
    "MiniMax-M2": make_config(
        *("minimax_m2", "MiniMaxM2ForCausalLM", 228_689_764_864, 3072, 1536, 62, 48, 8, 200_064, 196_608),
        head_dim=128,
        rotary_dim=64,
        num_local_experts=256,
        num_experts_per_tok=8,
    ),
    "gpt-oss-20b": _gpt_oss(20_914_757_184, 24, num_local_experts=32),
    "gpt-oss-120b": _gpt_oss(116_829_156_672, 36, num_local_experts=128),
    "gemma-4-26B-A4B, text": gemma4(
        *(25_233_141_790, 2816, 2112, 30, 16, 8),
        num_global_key_value_heads=2,
        enable_moe_block=True,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
    ),
    "granitemoeshared, the sizes of transformers' class": make_config(
        *("granitemoeshared", "GraniteMoeSharedForCausalLM", 37_441_769_472, 4096, 11008, 32, 32, 32, 32_000, 2048),
        num_local_experts=8,
        shared_intermediate_size=1024,
    ),
    "Mellum2-12B-A2.5B": make_config(
        *("mellum", "MellumForCausalLM", 12_149_923_072, 2304, 7168, 28, 32, 4, 98_304, 131_072),
        head_dim=128,
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 7,
        moe_intermediate_size=896,
        num_experts=64,
        num_experts_per_tok=8,
        rope_parameters={
            "full_attention": {
                "attention_factor": 1.2772588722239782,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "factor": 16.0,
                "original_max_position_embeddings": 8192,
                "rope_theta": 500_000.0,
                "rope_type": "yarn",
            },
            "sliding_attention": {"rope_theta": 500_000.0, "rope_type": "default"},
        },
        sliding_window=1024,
    ),
    "K-EXAONE-236B-A23B": make_config(
        *("exaone_moe", "ExaoneMoeForCausalLM", 236_571_156_352, 6144, 18432, 48, 64, 8, 153_600, 262_144),
        first_k_dense_replace=1,
        head_dim=128,
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 12,
        moe_intermediate_size=2048,
        num_experts=128,
        num_experts_per_tok=8,
        num_shared_experts=1,
        routed_scaling_factor=2.5,
        sliding_window=128,
        sliding_window_pattern="LLLG",
        topk_group=1,
    ),
    "Trinity-Mini": make_config(
        *("afmoe", "AfmoeForCausalLM", 26_123_974_400, 2048, 6144, 32, 32, 4, 200_192, 131_072),
        global_attn_every_n_layers=4,
        head_dim=128,
        moe_intermediate_size=1024,
        mup_enabled=True,
        num_dense_layers=2,
        num_experts=128,
        num_experts_per_tok=8,
        num_shared_experts=1,
        route_norm=True,
        route_scale=2.826,
        score_func="sigmoid",
        sliding_window=2048,
    ),
    "Solar-Open-100B": make_config(
        *("solar_open", "SolarOpenForCausalLM", 102_651_799_552, 4096, 10_240, 48, 64, 8, 196_608, 131_072),
        first_k_dense_replace=0,
        head_dim=128,
        moe_intermediate_size=1280,
        n_routed_experts=128,
        n_shared_experts=1,
        norm_topk_prob=True,
        num_experts_per_tok=8,
        rope_theta=1e6,
        routed_scaling_factor=1.0,
        use_qk_norm=False,
    ),
    "Phi-3.5-MoE": make_config(
        *("phimoe", "PhiMoEForCausalLM", 41_873_153_344, 4096, 6400, 32, 32, 8, 32_064, 131_072),
        attention_bias=True,
        lm_head_bias=True,
        num_experts_per_tok=2,
        num_local_experts=16,
        original_max_position_embeddings=4096,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 64, "long_factor": [8.0] * 64}
        | {"short_mscale": 1.243163121016122, "long_mscale": 1.243163121016122}
        | {"original_max_position_embeddings": 4096},
        rope_theta=10_000.0,
        router_jitter_noise=0.01,
        sliding_window=131_072,
    ),
    "MiMo-V2-Flash": make_config(
        *("mimo_v2_flash", "MiMoV2FlashForCausalLM", 308_778_780_864, 4096, 16384, 48, 64, 4, 152_576, 262_144),
        attention_value_scale=0.707,
        head_dim=192,
        moe_intermediate_size=2048,
        n_routed_experts=256,
        norm_topk_prob=True,
        num_experts_per_tok=8,
        sliding_window_size=128,
        topk_method="noaux_tc",
        v_head_dim=128,
    ),
    "Hunyuan-A13B": make_config(
        *("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", 80_393_183_232, 4096, 3072, 32, 32, 8, 128167, 32768),
        head_dim=128,
        moe_topk=[8] * 32,
        moe_intermediate_size=[3072] * 32,
        num_experts=64,
        num_shared_expert=[1] * 32,
        rope_scaling={"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        use_qk_norm=True,
    ),
}
