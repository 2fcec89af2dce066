"""Sizes of published models, as config.json on the hub has them, and their numbers of parameters.

Those of Qwen 3.5 are the text parts of vision models, with the sizes that transformers' config classes have.
Gemma 4 are the text parts of multimodal models, of which the pages give 30.7, 25.2 and 11.95 billion parameters.
Ministral 3 is the text part of a vision model, of which the page gives 3.4 billion and no exact number.
Keys that concern no size (dropout, initializer_range, cache flags) are left out.
"""

from typing import Any

LLAMA3_ROPE = {"rope_type": "llama3", "high_freq_factor": 4.0, "low_freq_factor": 1.0}
YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
LLAMA3_ROPE |= {"original_max_position_embeddings": 8192}

DEEPSEEK_ROPE = {"type": "yarn", "factor": 40.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0}
DEEPSEEK_ROPE |= {"mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}


def _sizes(width: int, hidden: int, layers: int, heads: int, kv_heads: int, vocab: int, length: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": length,
    }


def _model(model_type: str, name: str, num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return {"architectures": [name], "model_type": model_type} | _sizes(*sizes) | other, num_params


def _llama(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return _model("llama", "LlamaForCausalLM", num_params, *sizes, rms_norm_eps=1e-5, **other)


def _qwen2(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return _model("qwen2", "Qwen2ForCausalLM", num_params, *sizes, rope_theta=1e6, use_sliding_window=False, **other)


def _qwen3(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return _model("qwen3", "Qwen3ForCausalLM", num_params, *sizes, head_dim=128, rope_theta=1e6, **other)


def _gemma2(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    gemma = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096}
    gemma |= {"hidden_activation": "gelu_pytorch_tanh", "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
    return _model("gemma2", "Gemma2ForCausalLM", num_params, *sizes, **gemma, **other)


def _gemma3(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    gemma = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 512, "rope_theta": 1e6}
    return _model("gemma3_text", "Gemma3ForCausalLM", num_params, *sizes, **gemma, **other)


def _gemma4(
    num_params: int, *sizes: int, model_type: str = "gemma4_text", name: str = "Gemma4ForCausalLM", **other: Any
) -> tuple[dict[str, Any], int]:
    gemma = {"head_dim": 256, "global_head_dim": 512, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0}
    gemma |= {"sliding_window": 1024, "final_logit_softcapping": 30.0, "use_bidirectional_attention": "vision"}
    return _model(model_type, name, num_params, *sizes, 262_144, 262_144, **gemma, **other)


def _phi3(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return _model("phi3", "Phi3ForCausalLM", num_params, *sizes, rms_norm_eps=1e-5, **other)


def _granite(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    granite = {"embedding_multiplier": 12.0, "attention_multiplier": 0.015625, "residual_multiplier": 0.22}
    return _model("granite", "GraniteForCausalLM", num_params, *sizes, **granite, logits_scaling=8.0, **other)


def _stablelm(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    stablelm = {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "rope_theta": 10_000}
    return _model("stablelm", "StableLmForCausalLM", num_params, *sizes, **stablelm, **other)


def _starcoder2(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    starcoder2 = {"hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "sliding_window": 4096, "use_bias": True}
    return _model("starcoder2", "Starcoder2ForCausalLM", num_params, *sizes, **starcoder2, **other)


def _glm4_moe(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    glm = {"head_dim": 128, "rope_theta": 1e6, "partial_rotary_factor": 0.5, "attention_bias": True}
    return _model("glm4_moe", "Glm4MoeForCausalLM", num_params, *sizes, 151_552, 131_072, **glm, **other)


def _gpt_oss(num_params: int, layers: int, **other: Any) -> tuple[dict[str, Any], int]:
    rope = {"rope_type": "yarn", "rope_theta": 150_000, "factor": 32.0, "original_max_position_embeddings": 4096}
    gpt_oss = {"head_dim": 64, "num_experts_per_tok": 4, "rope_parameters": rope | {"truncate": False}}
    return _model(
        *("gpt_oss", "GptOssForCausalLM", num_params, 2880, 2880, layers, 64, 8, 201_088, 131_072), **gpt_oss, **other
    )


def _qwen3_next(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    rope = {"rope_theta": 1e7, "partial_rotary_factor": 0.25}
    experts = {"num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512, "norm_topk_prob": True}
    experts |= {"shared_expert_intermediate_size": 512, "decoder_sparse_step": 1, "mlp_only_layers": []}
    delta = {"full_attention_interval": 4, "linear_num_key_heads": 16, "linear_num_value_heads": 32}
    delta |= {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "head_dim": 256}
    return _model("qwen3_next", "Qwen3NextForCausalLM", num_params, *sizes, **rope, **experts, **delta, **other)


def _granite4(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    granite = {"embedding_multiplier": 12, "residual_multiplier": 0.22, "tie_word_embeddings": True}
    granite |= {"mamba_d_conv": 4, "mamba_d_state": 128, "mamba_expand": 2, "mamba_n_groups": 1}
    granite |= {"layer_types": ["attention" if layer % 10 == 5 else "mamba" for layer in range(40)]}
    granite |= {"normalization_function": "rmsnorm", "position_embedding_type": "nope"}
    return _model(
        *("granitemoehybrid", "GraniteMoeHybridForCausalLM", num_params, *sizes, 100_352, 131_072), **granite | other
    )


def _neox(num_params: int, width: int, hidden: int, layers: int, heads: int, vocab: int) -> tuple[dict[str, Any], int]:
    config, _ = _model("gpt_neox", "GPTNeoXForCausalLM", num_params, width, hidden, layers, heads, heads, vocab, 2048)
    del config["num_key_value_heads"]
    return config | {"hidden_act": "gelu", "rotary_emb_base": 10_000, "rotary_pct": 0.25}, num_params


PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-3.1-8B": _llama(
        8_030_261_248, 4096, 14336, 32, 32, 8, 128256, 131072, rope_scaling=LLAMA3_ROPE | {"factor": 8.0}
    ),
    "Llama-3.2-1B": _llama(
        *(1_235_814_400, 2048, 8192, 16, 32, 8, 128256, 131072),
        rope_scaling=LLAMA3_ROPE | {"factor": 32.0},
        tie_word_embeddings=True,
    ),
    "SmolLM2-135M": _llama(134_515_008, 576, 1536, 30, 9, 3, 49152, 8192, tie_word_embeddings=True),
    "Qwen2.5-0.5B": _qwen2(494_032_768, 896, 4864, 24, 14, 2, 151936, 32768, tie_word_embeddings=True),
    "Qwen2.5-7B": _qwen2(7_615_616_512, 3584, 18944, 28, 28, 4, 152064, 32768),
    "Qwen3-0.6B": _qwen3(596_049_920, 1024, 3072, 28, 16, 8, 151936, 40960, tie_word_embeddings=True),
    "Qwen3-8B": _qwen3(8_190_735_360, 4096, 12288, 36, 32, 8, 151936, 40960),
    "Mistral-7B-v0.1": _model(
        *("mistral", "MistralForCausalLM", 7_241_732_096, 4096, 14336, 32, 32, 8, 32000, 32768), sliding_window=4096
    ),
    "Mistral-Nemo-2407": _model(
        *("mistral", "MistralForCausalLM", 12_247_782_400, 5120, 14336, 40, 32, 8, 131072, 131072),
        head_dim=128,
        sliding_window=None,
    ),
    "Mixtral-8x7B": _model(
        *("mixtral", "MixtralForCausalLM", 46_702_792_704, 4096, 14336, 32, 32, 8, 32000, 32768),
        num_local_experts=8,
        num_experts_per_tok=2,
    ),
    "Qwen3-30B-A3B": _model(
        *("qwen3_moe", "Qwen3MoeForCausalLM", 30_532_122_624, 2048, 6144, 48, 32, 4, 151936, 40960),
        head_dim=128,
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=True,
    ),
    "GLM-4.5-Air": _glm4_moe(106_852_251_264, *(4096, 10944, 46, 96, 8), moe_intermediate_size=1408),
    "dots.llm1": _model(
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
    "Qwen1.5-MoE-A2.7B": _model(
        *("qwen2_moe", "Qwen2MoeForCausalLM", 14_315_784_192, 2048, 5632, 24, 16, 16, 151_936, 8192),
        num_experts=60,
        num_experts_per_tok=4,
        moe_intermediate_size=1408,
        shared_expert_intermediate_size=5632,
        rope_theta=1e6,
    ),
    "OLMoE-1B-7B-0924": _model(
        *("olmoe", "OlmoeForCausalLM", 6_919_161_856, 2048, 1024, 16, 16, 16, 50_304, 4096),
        num_experts=64,
        num_experts_per_tok=8,
    ),
    "FlexOlmo-7x7B-1T": _model(
        *("flex_olmo", "FlexOlmoForCausalLM", 33_270_665_216, 4096, 11008, 32, 32, 32, 100_352, 4096),
        num_experts=7,
        num_experts_per_tok=5,
    ),
    "Llama-4-Scout-17B-16E": _model(
        *("llama4_text", "Llama4ForCausalLM", 107_769_861_120, 5120, 8192, 48, 40, 8, 202_048, 10_485_760),
        head_dim=128,
        intermediate_size_mlp=16_384,
        num_local_experts=16,
        num_experts_per_tok=1,
        rope_theta=5e5,
    ),
    "ERNIE-4.5-21B-A3B": _model(
        *("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", 21_825_437_888, 2560, 12288, 28, 20, 4, 103_424, 131_072),
        moe_num_experts=64,
        moe_k=6,
        moe_intermediate_size=1536,
        moe_num_shared_experts=2,
        moe_layer_start_index=1,
        tie_word_embeddings=True,
    ),
    "granite-3.1-1b-a400m": _model(
        *("granitemoe", "GraniteMoeForCausalLM", 1_334_628_352, 1024, 512, 24, 16, 8, 49_155, 131_072),
        num_local_experts=32,
        num_experts_per_tok=8,
        embedding_multiplier=12.0,
        attention_multiplier=0.015625,
        residual_multiplier=0.22,
        logits_scaling=6.0,
        tie_word_embeddings=True,
    ),
    "granite-4.0-h-micro": _granite4(
        *(3_191_396_096, 2048, 8192, 40, 32, 8),
        attention_multiplier=0.015625,
        logits_scaling=8,
        mamba_n_heads=64,
        num_local_experts=0,
        num_experts_per_tok=0,
        shared_intermediate_size=8192,
    ),
    "granite-4.0-h-tiny": _granite4(
        *(6_939_037_248, 1536, 512, 40, 12, 4),
        attention_multiplier=0.0078125,
        logits_scaling=6,
        mamba_n_heads=48,
        num_local_experts=64,
        num_experts_per_tok=6,
        shared_intermediate_size=1024,
    ),
    "granite-4.0-h-small": _granite4(
        *(32_207_337_984, 4096, 768, 40, 32, 8),
        attention_multiplier=0.0078125,
        logits_scaling=16,
        mamba_n_heads=128,
        num_local_experts=72,
        num_experts_per_tok=10,
        shared_intermediate_size=1536,
    ),
    "granite-4.0-micro": _granite4(
        *(3_402_836_480, 2560, 8192, 40, 40, 8),
        attention_multiplier=0.015625,
        layer_types=["attention"] * 40,
        logits_scaling=10,
        mamba_n_heads=128,
        num_local_experts=0,
        num_experts_per_tok=0,
        position_embedding_type="rope",
        rope_theta=10_000_000,
        shared_intermediate_size=8192,
    ),
    "Bamba-9B-v1": _model(
        *("bamba", "BambaForCausalLM", 9_780_235_392, 4096, 14336, 32, 32, 8, 128_256, 262_144),
        attn_layer_indices=[9, 18, 27],
        attn_rotary_emb=64,
        mamba_d_head=64,
        mamba_d_state=128,
        mamba_n_heads=128,
        rope_theta=10_000.0,
    ),
    "MiniMax-M2": _model(
        *("minimax_m2", "MiniMaxM2ForCausalLM", 228_689_764_864, 3072, 1536, 62, 48, 8, 200_064, 196_608),
        head_dim=128,
        rotary_dim=64,
        num_local_experts=256,
        num_experts_per_tok=8,
    ),
    "gpt-oss-20b": _gpt_oss(20_914_757_184, 24, num_local_experts=32),
    "gpt-oss-120b": _gpt_oss(116_829_156_672, 36, num_local_experts=128),
    "LFM2-1.2B": _model(
        *("lfm2", "Lfm2ForCausalLM", 1_170_340_608, 2048, 12288, 16, 32, 8, 65_536, 128_000),
        full_attn_idxs=[2, 5, 8, 10, 12, 14],
        rope_theta=1e6,
        tie_word_embeddings=True,
    ),
    "LFM2-8B-A1B": _model(
        *("lfm2_moe", "Lfm2MoeForCausalLM", 8_339_930_560, 2048, 7168, 24, 32, 8, 65_536, 128_000),
        layer_types=["full_attention" if layer in (2, 6, 10, 14, 18, 21) else "conv" for layer in range(24)],
        num_experts=32,
        num_experts_per_tok=4,
        moe_intermediate_size=1792,
        rope_theta=1e6,
        tie_word_embeddings=True,
    ),
    "Kimi-Linear-48B-A3B": _model(
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
    "Qwen3-Next-80B-A3B": _qwen3_next(79_674_391_296, 2048, 5120, 48, 16, 2, 151936, 262144),
    "Qwen3.5-9B, text": _model(
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
    "gemma-2-2b": _gemma2(2_614_341_888, 2304, 9216, 26, 8, 4, 256000, 8192),
    "gemma-2-9b": _gemma2(9_241_705_984, 3584, 14336, 42, 16, 8, 256000, 8192),
    "gemma-3-270m": _gemma3(268_098_176, 640, 2048, 18, 4, 1, 262144, 32768),
    "gemma-3-1b": _gemma3(999_885_952, 1152, 6912, 26, 4, 1, 262144, 32768),
    "gemma-4-31B, text": _gemma4(30_697_345_340, 5376, 21504, 60, 32, 16, num_global_key_value_heads=4),
    "gemma-4-26B-A4B, text": _gemma4(
        *(25_233_141_790, 2816, 2112, 30, 16, 8),
        num_global_key_value_heads=2,
        enable_moe_block=True,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
    ),
    "gemma-4-12B, text": _gemma4(
        *(11_907_350_320, 3840, 15360, 48, 16, 8),
        model_type="gemma4_unified_text",
        name="Gemma4UnifiedForCausalLM",
        num_global_key_value_heads=1,
    ),
    "Phi-3-mini-4k": _phi3(3_821_079_552, 3072, 8192, 32, 32, 32, 32064, 4096),
    "phi-4": _phi3(14_659_507_200, 5120, 17920, 40, 40, 10, 100352, 16384, rope_theta=250000.0),
    "granite-3.1-2b": _granite(2_533_531_648, 2048, 8192, 40, 32, 8, 49155, 131072, tie_word_embeddings=True),
    "granite-3.1-8b": _granite(8_170_848_256, 4096, 12800, 40, 32, 8, 49155, 131072, tie_word_embeddings=True),
    "OLMo-2-1124-7B": _model("olmo2", "Olmo2ForCausalLM", 7_298_617_344, 4096, 11008, 32, 32, 32, 100352, 4096),
    "OLMo-2-0425-1B": _model("olmo2", "Olmo2ForCausalLM", 1_484_916_736, 2048, 8192, 16, 16, 16, 100352, 4096),
    "SmolLM3-3B": _model(
        *("smollm3", "SmolLM3ForCausalLM", 3_075_098_624, 2048, 11008, 36, 16, 4, 128256, 65536),
        tie_word_embeddings=True,
    ),
    "stablelm-3b-4e1t": _stablelm(2_795_443_200, 2560, 6912, 32, 32, 32, 50304, 4096, tie_word_embeddings=False),
    "stablelm-2-1_6b": _stablelm(1_644_515_328, 2048, 5632, 24, 32, 32, 100352, 4096, use_qkv_bias=True),
    "starcoder2-3b": _starcoder2(3_030_371_328, 3072, 12288, 30, 24, 2, 49152, 16384, rope_theta=999_999.44),
    "starcoder2-7b": _starcoder2(7_173_923_840, 4608, 18432, 32, 36, 4, 49152, 16384, rope_theta=1e6),
    "starcoder2-15b": _starcoder2(
        *(15_957_889_024, 6144, 24576, 40, 48, 4, 49152, 16384), rope_theta=1e5, tie_word_embeddings=False
    ),
    "MiniCPM3-4B": _model(
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
    "DeepSeek-V2-Lite": _model(
        *("deepseek_v2", "DeepseekV2ForCausalLM", 15_706_484_224, 2048, 10944, 27, 16, 16, 102400, 163840),
        q_lora_rank=None,
        first_k_dense_replace=1,
        moe_intermediate_size=1408,
        n_routed_experts=64,
        num_experts_per_tok=6,
        topk_method="greedy",
        rope_scaling=DEEPSEEK_ROPE | {"mscale": 0.707, "mscale_all_dim": 0.707},
    ),
    "DeepSeek-V2": _model(
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
    "DeepSeek-V3": _model(
        *("deepseek_v3", "DeepseekV3ForCausalLM", 671_026_419_200, 7168, 18432, 61, 128, 128, 129280, 163840),
        rope_scaling=DEEPSEEK_ROPE,
    ),
    "Kimi-K2": _model(
        *("deepseek_v3", "DeepseekV3ForCausalLM", 1_026_408_232_448, 7168, 18432, 61, 64, 64, 163840, 131072),
        first_k_dense_replace=1,
        n_routed_experts=384,
        n_group=1,
        topk_group=1,
        routed_scaling_factor=2.827,
        rope_theta=50_000.0,
        rope_scaling=DEEPSEEK_ROPE | {"factor": 32.0, "beta_fast": 1.0},
    ),
    "GLM-4.7-Flash": _model(
        *("glm4_moe_lite", "Glm4MoeLiteForCausalLM", 29_943_393_920, 2048, 10240, 47, 20, 20, 154880, 202752),
        rope_theta=1e6,
    ),
    "Youtu-LLM-2B": _model(
        *("youtu", "YoutuForCausalLM", 1_961_560_064, 2048, 6144, 32, 16, 16, 128256, 131072),
        q_lora_rank=1536,
        kv_lora_rank=512,
        rope_theta=1_600_000,
        tie_word_embeddings=True,
    ),
    "Ministral-3-3B": _model(
        *("ministral3", "Ministral3ForCausalLM", 3_429_006_336, 3072, 9216, 26, 32, 8, 131072, 262144),
        head_dim=128,
        tie_word_embeddings=True,
    ),
    "Olmo-3-7B": _model(
        *("olmo3", "Olmo3ForCausalLM", 7_298_011_136, 4096, 11008, 32, 32, 32, 100278, 65536),
        rope_theta=500_000,
        rope_scaling=YARN
        | {"factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836},
        sliding_window=4096,
    ),
    "GLM-4-9B-0414": _model(
        *("glm4", "Glm4ForCausalLM", 9_400_279_040, 4096, 13696, 40, 32, 2, 151552, 32768),
        attention_bias=True,
        head_dim=128,
        partial_rotary_factor=0.5,
        rms_norm_eps=1e-5,
    ),
    "glm-4-9b-chat": _model(
        *("glm", "GlmForCausalLM", 9_399_951_360, 4096, 13696, 40, 32, 2, 151552, 131072),
        attention_bias=True,
        head_dim=128,
        partial_rotary_factor=0.5,
        rms_norm_eps=1.5625e-07,
    ),
    "c4ai-command-r-v01": _model(
        *("cohere", "CohereForCausalLM", 34_980_831_232, 8192, 22528, 40, 64, 64, 256000, 131072),
        logit_scale=0.0625,
        rope_theta=8e6,
    ),
    "c4ai-command-r7b-12-2024": _model(
        *("cohere2", "Cohere2ForCausalLM", 8_028_033_024, 4096, 14336, 32, 32, 8, 256000, 8192),
        layer_switch=4,
        logit_scale=0.25,
        order_of_interleaved_layers="local_attn_first",
        rope_theta=50_000,
        sliding_window=4096,
    ),
    "EXAONE-4.0-32B": _model(
        *("exaone4", "Exaone4ForCausalLM", 32_003_216_384, 5120, 27392, 64, 40, 8, 102400, 131072),
        head_dim=128,
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 16,
        rope_scaling=LLAMA3_ROPE | {"factor": 16.0},
        rope_theta=1e6,
        sliding_window=4096,
        sliding_window_pattern="LLLG",
    ),
    "EXAONE-4.0-1.2B": _model(
        *("exaone4", "Exaone4ForCausalLM", 1_279_391_488, 2048, 4096, 30, 32, 8, 102400, 65536),
        head_dim=64,
        layer_types=["full_attention"] * 30,
        rope_scaling=LLAMA3_ROPE | {"factor": 16.0},
        rope_theta=1e6,
        sliding_window=None,
        tie_word_embeddings=True,
    ),
    "ERNIE-4.5-0.3B": _model(
        *("ernie4_5", "Ernie4_5ForCausalLM", 360_748_032, 1024, 3072, 18, 16, 2, 103424, 131072),
        head_dim=128,
        rope_theta=500_000.0,
        tie_word_embeddings=True,
        use_bias=False,
    ),
    "Seed-OSS-36B": _model(
        *("seed_oss", "SeedOssForCausalLM", 36_151_104_512, 5120, 27648, 64, 80, 8, 155136, 524288),
        attention_bias=True,
        head_dim=128,
        rope_theta=1e7,
    ),
    "Hunyuan-1.8B": _model(
        *("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", 1_791_080_448, 2048, 6144, 32, 16, 4, 120818, 262144),
        head_dim=128,
        rope_scaling={"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        use_qk_norm=True,
    ),
    "Hunyuan-A13B": _model(
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
    "AFM-4.5B": _model(
        *("arcee", "ArceeForCausalLM", 4_619_184_640, 2560, 18432, 36, 20, 4, 128004, 65536),
        head_dim=128,
        hidden_act="relu2",
        rope_scaling=YARN | {"factor": 20.0, "original_max_position_embeddings": 4096},
    ),
    "gemma-2b": _model(
        *("gemma", "GemmaForCausalLM", 2_506_172_416, 2048, 16384, 18, 8, 1, 256000, 8192),
        head_dim=256,
        hidden_act="gelu",
    ),
    "gemma-7b": _model(
        *("gemma", "GemmaForCausalLM", 8_537_680_896, 3072, 24576, 28, 16, 16, 256000, 8192),
        head_dim=256,
        hidden_act="gelu",
    ),
    "internlm2_5-7b": _model(
        *("internlm2", "InternLM2ForCausalLM", 7_737_708_544, 4096, 14336, 32, 32, 8, 92544, 32768),
        attn_implementation="eager",
        bias=False,
        rope_scaling={"type": "dynamic", "factor": 2.0},
        rope_theta=1_000_000,
    ),
    "internlm3-8b": _model(
        *("internlm3", "InternLM3ForCausalLM", 8_804_241_408, 4096, 10240, 48, 32, 2, 128512, 32768),
        bias=False,
        head_dim=128,
        qkv_bias=False,
        rope_scaling={"factor": 6.0, "rope_type": "dynamic"},
        rope_theta=50_000_000,
    ),
    "helium-1-preview-2b": _model(
        *("helium", "HeliumForCausalLM", 2_172_643_840, 2560, 7040, 24, 20, 20, 48000, 4096),
        head_dim=128,
        rope_theta=100_000.0,
    ),
    "Yi-6B": _llama(6_061_035_520, 4096, 11008, 32, 32, 4, 64000, 4096, rope_theta=5e6),
    "Falcon3-7B": _llama(7_455_550_464, 3072, 23040, 28, 12, 4, 131072, 32768, head_dim=256, rope_theta=1000042),
    "phi-1_5": _model(
        *("phi", "PhiForCausalLM", 1_418_270_720, 2048, 8192, 24, 32, 32, 51200, 2048),
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
        partial_rotary_factor=0.5,
    ),
    "phi-2": _model(
        *("phi", "PhiForCausalLM", 2_779_683_840, 2560, 10240, 32, 32, 32, 51200, 2048),
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
        partial_rotary_factor=0.4,
    ),
    "Minitron-4B": _model(
        *("nemotron", "NemotronForCausalLM", 4_190_509_056, 3072, 9216, 32, 24, 8, 256000, 4096),
        head_dim=128,
        hidden_act="relu2",
        norm_eps=1e-5,
        partial_rotary_factor=0.5,
    ),
    "Apertus-8B": _model(
        *("apertus", "ApertusForCausalLM", 8_053_338_240, 4096, 21504, 32, 32, 8, 131072, 65536),
        hidden_act="xielu",
        post_norm=False,
        qk_norm=True,
        rope_scaling=LLAMA3_ROPE | {"factor": 8.0},
        rope_theta=12_000_000,
    ),
    "gpt-neox-20b": _neox(20_554_567_680, 6144, 24576, 44, 64, 50432),
    "pythia-160m": _neox(162_322_944, 768, 3072, 12, 12, 50304),
    "OLMo-1B": _model(
        *("olmo", "OlmoForCausalLM", 1_176_764_416, 2048, 8192, 16, 16, 16, 50304, 2048),
        clip_qkv=None,
        tie_word_embeddings=True,
    ),
    "OLMo-7B-0424": _model(
        *("olmo", "OlmoForCausalLM", 6_888_095_744, 4096, 11008, 32, 32, 32, 50304, 4096), clip_qkv=8.0
    ),
    "HyperCLOVAX-SEED-Think-14B": _model(
        *("hyperclovax", "HyperCLOVAXForCausalLM", 14_748_112_896, 6144, 14336, 38, 48, 8, 110592, 131072),
        attention_multiplier=0.0078125,
        embedding_multiplier=10.0,
        head_dim=128,
        logits_scaling=0.125,
        use_post_norm=True,
    ),
    "cwm": _model(
        *("cwm", "CwmForCausalLM", 32_581_097_472, 6144, 21504, 64, 48, 8, 128256, 131072),
        head_dim=128,
        sliding_window=8192,
    ),
    "Ministral-8B-2410": _model(
        *("ministral", "MinistralForCausalLM", 8_019_808_256, 4096, 12288, 36, 32, 8, 131072, 32768),
        head_dim=128,
        layer_types=(["full_attention"] + ["sliding_attention"] * 3) * 9,
        rope_theta=1e8,
        sliding_window=32768,
    ),
    "Jais-2-8B": _model(
        *("jais2", "Jais2ForCausalLM", 8_090_401_280, 3328, 26624, 32, 26, 26, 150272, 8192), hidden_act="relu2"
    ),
    "vaultgemma-1b": _model(
        *("vaultgemma", "VaultGemmaForCausalLM", 1_038_741_120, 1152, 6912, 26, 4, 4, 256000, 1024),
        head_dim=256,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=256,
        sliding_window=512,
    ),
    "granite-swash-2b": _model(
        *("granite_swa", "GraniteSWAForCausalLM", 2_144_463_840, 2560, 8192, 24, 20, 4, 100352, 8192)
    ),
}
