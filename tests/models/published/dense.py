"""Published models with a dense block in every layer; see __init__.py."""

from typing import Any

from tests.models.published.sizes import gemma4, granite4, make_config

LLAMA3_ROPE = {"rope_type": "llama3", "high_freq_factor": 4.0, "low_freq_factor": 1.0}
YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
LLAMA3_ROPE |= {"original_max_position_embeddings": 8192}


def _llama(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return make_config("llama", "LlamaForCausalLM", num_params, *sizes, rms_norm_eps=1e-5, **other)


def _qwen2(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return make_config(
        "qwen2", "Qwen2ForCausalLM", num_params, *sizes, rope_theta=1e6, use_sliding_window=False, **other
    )


def _qwen3(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return make_config("qwen3", "Qwen3ForCausalLM", num_params, *sizes, head_dim=128, rope_theta=1e6, **other)


def _gemma2(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    gemma = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096}
    gemma |= {"hidden_activation": "gelu_pytorch_tanh", "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}
    return make_config("gemma2", "Gemma2ForCausalLM", num_params, *sizes, **gemma, **other)


def _gemma3(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    gemma = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 512, "rope_theta": 1e6}
    return make_config("gemma3_text", "Gemma3ForCausalLM", num_params, *sizes, **gemma, **other)


GEMMA4_SMALL: dict[str, Any] = {"attention_k_eq_v": False, "hidden_size_per_layer_input": 256, "sliding_window": 512}
GEMMA4_SMALL |= {"vocab_size_per_layer_input": 262_144, "max_position_embeddings": 131_072}


def _phi3(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    return make_config("phi3", "Phi3ForCausalLM", num_params, *sizes, rms_norm_eps=1e-5, **other)


def _granite(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    granite = {"embedding_multiplier": 12.0, "attention_multiplier": 0.015625, "residual_multiplier": 0.22}
    return make_config("granite", "GraniteForCausalLM", num_params, *sizes, **granite, logits_scaling=8.0, **other)


def _stablelm(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    stablelm = {"layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "rope_theta": 10_000}
    return make_config("stablelm", "StableLmForCausalLM", num_params, *sizes, **stablelm, **other)


def _starcoder2(num_params: int, *sizes: int, **other: Any) -> tuple[dict[str, Any], int]:
    starcoder2 = {"hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "sliding_window": 4096, "use_bias": True}
    return make_config("starcoder2", "Starcoder2ForCausalLM", num_params, *sizes, **starcoder2, **other)


def _neox(num_params: int, width: int, hidden: int, layers: int, heads: int, vocab: int) -> tuple[dict[str, Any], int]:
    config, _ = make_config(
        "gpt_neox", "GPTNeoXForCausalLM", num_params, width, hidden, layers, heads, heads, vocab, 2048
    )
    del config["num_key_value_heads"]
    return config | {"hidden_act": "gelu", "rotary_emb_base": 10_000, "rotary_pct": 0.25}, num_params


DENSE: dict[str, tuple[dict[str, Any], int]] = {
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
    "Mistral-7B-v0.1": make_config(
        *("mistral", "MistralForCausalLM", 7_241_732_096, 4096, 14336, 32, 32, 8, 32000, 32768), sliding_window=4096
    ),
    "Mistral-Nemo-2407": make_config(
        *("mistral", "MistralForCausalLM", 12_247_782_400, 5120, 14336, 40, 32, 8, 131072, 131072),
        head_dim=128,
        sliding_window=None,
    ),
    "granite-4.0-micro": granite4(
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
    "gemma-2-2b": _gemma2(2_614_341_888, 2304, 9216, 26, 8, 4, 256000, 8192),
    "gemma-2-9b": _gemma2(9_241_705_984, 3584, 14336, 42, 16, 8, 256000, 8192),
    "gemma-3-270m": _gemma3(268_098_176, 640, 2048, 18, 4, 1, 262144, 32768),
    "gemma-3-1b": _gemma3(999_885_952, 1152, 6912, 26, 4, 1, 262144, 32768),
    "gemma-4-31B, text": gemma4(30_697_345_340, 5376, 21504, 60, 32, 16, num_global_key_value_heads=4),
    "gemma-4-E2B, text": gemma4(
        *(4_628_569_379, 1536, 6144, 35, 8, 1),
        **GEMMA4_SMALL,
        layer_types=(["sliding_attention"] * 4 + ["full_attention"]) * 7,
        num_kv_shared_layers=20,
        use_double_wide_mlp=True,
    ),
    "gemma-4-E4B, text": gemma4(
        *(7_463_013_418, 2560, 10240, 42, 8, 2),
        **GEMMA4_SMALL,
        layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 7,
        num_kv_shared_layers=18,
    ),
    "gemma-4-12B, text": gemma4(
        *(11_907_350_320, 3840, 15360, 48, 16, 8),
        model_type="gemma4_unified_text",
        name="Gemma4UnifiedForCausalLM",
        num_global_key_value_heads=1,
    ),
    "Phi-3-mini-4k": _phi3(3_821_079_552, 3072, 8192, 32, 32, 32, 32064, 4096),
    "phi-4": _phi3(14_659_507_200, 5120, 17920, 40, 40, 10, 100352, 16384, rope_theta=250000.0),
    "granite-3.1-2b": _granite(2_533_531_648, 2048, 8192, 40, 32, 8, 49155, 131072, tie_word_embeddings=True),
    "granite-3.1-8b": _granite(8_170_848_256, 4096, 12800, 40, 32, 8, 49155, 131072, tie_word_embeddings=True),
    "OLMo-2-1124-7B": make_config("olmo2", "Olmo2ForCausalLM", 7_298_617_344, 4096, 11008, 32, 32, 32, 100352, 4096),
    "OLMo-2-0425-1B": make_config("olmo2", "Olmo2ForCausalLM", 1_484_916_736, 2048, 8192, 16, 16, 16, 100352, 4096),
    "SmolLM3-3B": make_config(
        *("smollm3", "SmolLM3ForCausalLM", 3_075_098_624, 2048, 11008, 36, 16, 4, 128256, 65536),
        tie_word_embeddings=True,
    ),
    "stablelm-3b-4e1t": _stablelm(2_795_443_200, 2560, 6912, 32, 32, 32, 50304, 4096, tie_word_embeddings=False),
    "stablelm-2-12b": _stablelm(
        *(12_143_185_920, 5120, 13824, 40, 32, 8, 100352, 4096), qk_layernorm=True, use_parallel_residual=True
    ),
    "stablelm-2-1_6b": _stablelm(1_644_515_328, 2048, 5632, 24, 32, 32, 100352, 4096, use_qkv_bias=True),
    "starcoder2-3b": _starcoder2(3_030_371_328, 3072, 12288, 30, 24, 2, 49152, 16384, rope_theta=999_999.44),
    "starcoder2-7b": _starcoder2(7_173_923_840, 4608, 18432, 32, 36, 4, 49152, 16384, rope_theta=1e6),
    "starcoder2-15b": _starcoder2(
        *(15_957_889_024, 6144, 24576, 40, 48, 4, 49152, 16384), rope_theta=1e5, tie_word_embeddings=False
    ),
    "Ministral-3-3B": make_config(
        *("ministral3", "Ministral3ForCausalLM", 3_429_006_336, 3072, 9216, 26, 32, 8, 131072, 262144),
        head_dim=128,
        tie_word_embeddings=True,
    ),
    "Olmo-3-7B": make_config(
        *("olmo3", "Olmo3ForCausalLM", 7_298_011_136, 4096, 11008, 32, 32, 32, 100278, 65536),
        rope_theta=500_000,
        rope_scaling=YARN
        | {"factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836},
        sliding_window=4096,
    ),
    "GLM-4-9B-0414": make_config(
        *("glm4", "Glm4ForCausalLM", 9_400_279_040, 4096, 13696, 40, 32, 2, 151552, 32768),
        attention_bias=True,
        head_dim=128,
        partial_rotary_factor=0.5,
        rms_norm_eps=1e-5,
    ),
    "glm-4-9b-chat": make_config(
        *("glm", "GlmForCausalLM", 9_399_951_360, 4096, 13696, 40, 32, 2, 151552, 131072),
        attention_bias=True,
        head_dim=128,
        partial_rotary_factor=0.5,
        rms_norm_eps=1.5625e-07,
    ),
    "c4ai-command-r-v01": make_config(
        *("cohere", "CohereForCausalLM", 34_980_831_232, 8192, 22528, 40, 64, 64, 256000, 131072),
        logit_scale=0.0625,
        rope_theta=8e6,
    ),
    "c4ai-command-r-plus": make_config(
        *("cohere", "CohereForCausalLM", 103_810_674_688, 12288, 33792, 64, 96, 8, 256000, 8192),
        logit_scale=0.8333333333333334,
        rope_theta=75_000_000.0,
        use_qk_norm=True,
    ),
    "c4ai-command-r7b-12-2024": make_config(
        *("cohere2", "Cohere2ForCausalLM", 8_028_033_024, 4096, 14336, 32, 32, 8, 256000, 8192),
        layer_switch=4,
        logit_scale=0.25,
        order_of_interleaved_layers="local_attn_first",
        rope_theta=50_000,
        sliding_window=4096,
    ),
    "EXAONE-4.0-32B": make_config(
        *("exaone4", "Exaone4ForCausalLM", 32_003_216_384, 5120, 27392, 64, 40, 8, 102400, 131072),
        head_dim=128,
        layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 16,
        rope_scaling=LLAMA3_ROPE | {"factor": 16.0},
        rope_theta=1e6,
        sliding_window=4096,
        sliding_window_pattern="LLLG",
    ),
    "EXAONE-4.0-1.2B": make_config(
        *("exaone4", "Exaone4ForCausalLM", 1_279_391_488, 2048, 4096, 30, 32, 8, 102400, 65536),
        head_dim=64,
        layer_types=["full_attention"] * 30,
        rope_scaling=LLAMA3_ROPE | {"factor": 16.0},
        rope_theta=1e6,
        sliding_window=None,
        tie_word_embeddings=True,
    ),
    "ERNIE-4.5-0.3B": make_config(
        *("ernie4_5", "Ernie4_5ForCausalLM", 360_748_032, 1024, 3072, 18, 16, 2, 103424, 131072),
        head_dim=128,
        rope_theta=500_000.0,
        tie_word_embeddings=True,
        use_bias=False,
    ),
    "Seed-OSS-36B": make_config(
        *("seed_oss", "SeedOssForCausalLM", 36_151_104_512, 5120, 27648, 64, 80, 8, 155136, 524288),
        attention_bias=True,
        head_dim=128,
        rope_theta=1e7,
    ),
    "Hunyuan-1.8B": make_config(
        *("hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", 1_791_080_448, 2048, 6144, 32, 16, 4, 120818, 262144),
        head_dim=128,
        rope_scaling={"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        use_qk_norm=True,
    ),
    "AFM-4.5B": make_config(
        *("arcee", "ArceeForCausalLM", 4_619_184_640, 2560, 18432, 36, 20, 4, 128004, 65536),
        head_dim=128,
        hidden_act="relu2",
        rope_scaling=YARN | {"factor": 20.0, "original_max_position_embeddings": 4096},
    ),
    "gemma-2b": make_config(
        *("gemma", "GemmaForCausalLM", 2_506_172_416, 2048, 16384, 18, 8, 1, 256000, 8192),
        head_dim=256,
        hidden_act="gelu",
    ),
    "gemma-7b": make_config(
        *("gemma", "GemmaForCausalLM", 8_537_680_896, 3072, 24576, 28, 16, 16, 256000, 8192),
        head_dim=256,
        hidden_act="gelu",
    ),
    "internlm2_5-7b": make_config(
        *("internlm2", "InternLM2ForCausalLM", 7_737_708_544, 4096, 14336, 32, 32, 8, 92544, 32768),
        attn_implementation="eager",
        bias=False,
        rope_scaling={"type": "dynamic", "factor": 2.0},
        rope_theta=1_000_000,
    ),
    "internlm3-8b": make_config(
        *("internlm3", "InternLM3ForCausalLM", 8_804_241_408, 4096, 10240, 48, 32, 2, 128512, 32768),
        bias=False,
        head_dim=128,
        qkv_bias=False,
        rope_scaling={"factor": 6.0, "rope_type": "dynamic"},
        rope_theta=50_000_000,
    ),
    "helium-1-preview-2b": make_config(
        *("helium", "HeliumForCausalLM", 2_172_643_840, 2560, 7040, 24, 20, 20, 48000, 4096),
        head_dim=128,
        rope_theta=100_000.0,
    ),
    "Yi-6B": _llama(6_061_035_520, 4096, 11008, 32, 32, 4, 64000, 4096, rope_theta=5e6),
    "Falcon3-7B": _llama(7_455_550_464, 3072, 23040, 28, 12, 4, 131072, 32768, head_dim=256, rope_theta=1000042),
    "phi-1_5": make_config(
        *("phi", "PhiForCausalLM", 1_418_270_720, 2048, 8192, 24, 32, 32, 51200, 2048),
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
        partial_rotary_factor=0.5,
    ),
    "phi-2": make_config(
        *("phi", "PhiForCausalLM", 2_779_683_840, 2560, 10240, 32, 32, 32, 51200, 2048),
        hidden_act="gelu_new",
        layer_norm_eps=1e-5,
        partial_rotary_factor=0.4,
    ),
    "Minitron-4B": make_config(
        *("nemotron", "NemotronForCausalLM", 4_190_509_056, 3072, 9216, 32, 24, 8, 256000, 4096),
        head_dim=128,
        hidden_act="relu2",
        norm_eps=1e-5,
        partial_rotary_factor=0.5,
    ),
    "Apertus-8B": make_config(
        *("apertus", "ApertusForCausalLM", 8_053_338_240, 4096, 21504, 32, 32, 8, 131072, 65536),
        hidden_act="xielu",
        post_norm=False,
        qk_norm=True,
        rope_scaling=LLAMA3_ROPE | {"factor": 8.0},
        rope_theta=12_000_000,
    ),
    "gpt-neox-20b": _neox(20_554_567_680, 6144, 24576, 44, 64, 50432),
    "pythia-160m": _neox(162_322_944, 768, 3072, 12, 12, 50304),
    "OLMo-1B": make_config(
        *("olmo", "OlmoForCausalLM", 1_176_764_416, 2048, 8192, 16, 16, 16, 50304, 2048),
        clip_qkv=None,
        tie_word_embeddings=True,
    ),
    "OLMo-7B-0424": make_config(
        *("olmo", "OlmoForCausalLM", 6_888_095_744, 4096, 11008, 32, 32, 32, 50304, 4096), clip_qkv=8.0
    ),
    "HyperCLOVAX-SEED-Think-14B": make_config(
        *("hyperclovax", "HyperCLOVAXForCausalLM", 14_748_112_896, 6144, 14336, 38, 48, 8, 110592, 131072),
        attention_multiplier=0.0078125,
        embedding_multiplier=10.0,
        head_dim=128,
        logits_scaling=0.125,
        use_post_norm=True,
    ),
    "cwm": make_config(
        *("cwm", "CwmForCausalLM", 32_581_097_472, 6144, 21504, 64, 48, 8, 128256, 131072),
        head_dim=128,
        sliding_window=8192,
    ),
    "Ministral-8B-2410": make_config(
        *("ministral", "MinistralForCausalLM", 8_019_808_256, 4096, 12288, 36, 32, 8, 131072, 32768),
        head_dim=128,
        layer_types=(["full_attention"] + ["sliding_attention"] * 3) * 9,
        rope_theta=1e8,
        sliding_window=32768,
    ),
    "Jais-2-8B": make_config(
        *("jais2", "Jais2ForCausalLM", 8_090_401_280, 3328, 26624, 32, 26, 26, 150272, 8192), hidden_act="relu2"
    ),
    "vaultgemma-1b": make_config(
        *("vaultgemma", "VaultGemmaForCausalLM", 1_038_741_120, 1152, 6912, 26, 4, 4, 256000, 1024),
        head_dim=256,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=256,
        sliding_window=512,
    ),
    "nanochat-d32": make_config(
        *("nanochat", "NanoChatForCausalLM", 1_879_048_192, 2048, 8192, 32, 16, 16, 65_536, 2048), hidden_act="relu2"
    ),
    "granite-swash-2b": make_config(
        *("granite_swa", "GraniteSWAForCausalLM", 2_144_463_840, 2560, 8192, 24, 20, 4, 100352, 8192)
    ),
}
