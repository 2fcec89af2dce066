"""Configs that between them use every field of DecoderSpec, in the words of transformers 5 and, twice, of 4."""

from typing import Any

from tests.models.tiny import tiny_config

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
WHOLE_HEADS = PLAIN_ROPE | {"partial_rotary_factor": 1.0}
PROPORTIONAL_ROPE = {
    "rope_type": "proportional",
    "rope_theta": 10_000.0,
    "factor": 2.0,
    "partial_rotary_factor": 0.5,
}
GEMMA4_ALONE = {"enable_moe_block", "num_experts", "top_k_experts", "moe_intermediate_size"}
GEMMA4_ALONE |= {"hidden_size_per_layer_input"}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
OLD_LLAMA = {key: value for key, value in tiny_config("llama").items() if key not in ("rope_parameters", "dtype")}

# Half a head of 16 numbers turns, so four frequencies; requests of up to 512 tokens are more than the 64 of training.
LONGROPE: dict[str, Any] = {
    "num_key_value_heads": 2,
    "original_max_position_embeddings": 64,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.5,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.5, 2.5, 4.0, 8.0],
    },
}
WHOLE_LONGROPE = LONGROPE["rope_parameters"] | {
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
}
MSCALES = {"short_mscale": 1.3, "long_mscale": 1.3}
SHORT_LONGROPE = WHOLE_LONGROPE | {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 2.5, 4.0, 8.0],
    "original_max_position_embeddings": 512,
}

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
    "ministral3: queries of later positions are sharper": tiny_config("ministral3"),
    "ministral3 with a window, no sharpening, tied": tiny_config("ministral3")
    | {
        "sliding_window": 24,
        "tie_word_embeddings": True,
        "rope_parameters": tiny_config("ministral3")["rope_parameters"] | {"llama_4_scaling_beta": 0},
    },
    "qwen2 with windows in some layers": tiny_config("qwen2"),
    "qwen2 with layer types": tiny_config("qwen2")
    | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "qwen2 with yarn": tiny_config("qwen2") | {"use_sliding_window": False, "rope_parameters": YARN_ROPE},
    "qwen3: normed heads of a free size": tiny_config("qwen3"),
    "qwen3 with biases, tied": tiny_config("qwen3") | {"attention_bias": True, "tie_word_embeddings": True},
    "gemma2: windows in every other layer, soft caps": tiny_config("gemma2"),
    "gemma2 with biases, another scale, no soft caps, untied": tiny_config("gemma2")
    | {
        "attention_bias": True,
        "query_pre_attn_scalar": 100,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "tie_word_embeddings": False,
    },
    "gemma3: two rotations": tiny_config("gemma3"),
    "gemma3 with scaled global positions, full layers first": tiny_config("gemma3")
    | {
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
            "sliding_attention": PLAIN_ROPE,
        },
    },
    "gemma4: two sizes of heads, keys that are values, experts beside a dense block": tiny_config("gemma4"),
    "gemma4 without experts, full layers first": tiny_config("gemma4")
    | {"enable_moe_block": False, "num_hidden_layers": 3}
    | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "gemma4 with values of their own, biases, stretched positions, untied": tiny_config("gemma4")
    | {"attention_k_eq_v": False, "attention_bias": True, "tie_word_embeddings": False, "final_logit_softcapping": None}
    | {"rope_parameters": {"full_attention": PROPORTIONAL_ROPE, "sliding_attention": PLAIN_ROPE}},
    "gemma4 e2b: inputs of the layers, keys of other layers, wider blocks": tiny_config("gemma4_e2b"),
    "gemma4 with experts, values that are keys of other layers, inputs from a larger table": tiny_config("gemma4")
    | {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
    | {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 280, "use_double_wide_mlp": True},
    "gemma4 unified": {key: value for key, value in tiny_config("gemma4").items() if key not in GEMMA4_ALONE}
    | {"architectures": ["Gemma4UnifiedForCausalLM"], "model_type": "gemma4_unified_text"},
    "olmo2: norms behind the blocks": tiny_config("olmo2"),
    "olmo2 with shared keys, biases": tiny_config("olmo2") | {"num_key_value_heads": 2, "attention_bias": True},
    "granite: multipliers": tiny_config("granite"),
    "granite with biases, untied": tiny_config("granite")
    | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "smollm3: a layer without rotation": tiny_config("smollm3"),
    "smollm3 with windows where nothing rotates": tiny_config("smollm3")
    | {"no_rope_layers": [0, 1, 0], "use_sliding_window": True, "sliding_window": 20},
    "stablelm: a quarter of each head rotates": tiny_config("stablelm"),
    "stablelm: attention beside the feed-forward block, tied": tiny_config("stablelm")
    | {"use_qkv_bias": False, "use_parallel_residual": True, "tie_word_embeddings": True},
    "stablelm 2 12b: every head is normed by numbers of its own": tiny_config("stablelm")
    | {"qk_layernorm": True, "use_parallel_residual": True, "num_key_value_heads": 2},
    "starcoder2: biases, no gate, a window": tiny_config("starcoder2"),
    "starcoder2 without biases and window, untied": tiny_config("starcoder2")
    | {"use_bias": False, "sliding_window": None, "tie_word_embeddings": False},
    "phi3: fused tensors": tiny_config("phi3"),
    "phi3 with a window and shared keys": tiny_config("phi3") | {"sliding_window": 24, "num_key_value_heads": 2},
    "phi4-mini: longrope over the trained length, part of a head": tiny_config("phi3") | LONGROPE,
    "phi3.5: longrope within the trained length": tiny_config("phi3")
    | {"original_max_position_embeddings": 512, "rope_parameters": WHOLE_LONGROPE},
    "deepseek v2: latent attention, groups by their best expert, yarn scales scores": tiny_config("deepseek_v2"),
    "deepseek v2 lite: queries without a bottleneck, experts without groups, biases": tiny_config("deepseek_v2")
    | {"q_lora_rank": None, "topk_method": "greedy", "attention_bias": True, "rope_parameters": PLAIN_ROPE},
    "deepseek v3: latent attention, groups by their best two experts": tiny_config("deepseek_v3"),
    "deepseek v3 with halves that turn, yarn, no groups": tiny_config("deepseek_v3")
    | {"rope_interleave": False, "rope_parameters": YARN_ROPE | {"mscale": 1.0, "mscale_all_dim": 0.7}}
    | {"n_group": 1, "topk_group": 1, "norm_topk_prob": False},
    "glm4 moe lite: latent attention, a list of dense layers": tiny_config("glm4_moe_lite"),
    "minicpm3: latent attention, multipliers, tied": tiny_config("minicpm3"),
    "minicpm3 with biases, queries without a bottleneck, longrope": tiny_config("minicpm3")
    | {"q_lora_rank": None, "attention_bias": True, "tie_word_embeddings": False}
    | {"rope_parameters": SHORT_LONGROPE},
    "youtu: latent attention, neighbours turn, yarn scales scores": tiny_config("youtu")
    | {"rope_parameters": YARN_ROPE | {"mscale": 1.0, "mscale_all_dim": 0.7}},
    "mixtral: experts in every layer": tiny_config("mixtral"),
    "mixtral with a window, three of five experts": tiny_config("mixtral")
    | {"sliding_window": 24, "num_local_experts": 5, "num_experts_per_tok": 3},
    "gpt-oss: sinks, biased experts, a clamped gate": tiny_config("gpt_oss"),
    "gpt-oss without biases of attention, full layers first, plain positions": tiny_config("gpt_oss")
    | {
        "attention_bias": False,
        "layer_types": ["full_attention", "full_attention", "sliding_attention"],
        "rope_parameters": PLAIN_ROPE,
    },
    "glm 4.5: a shared expert, groups, half of each head rotates": tiny_config("glm4_moe"),
    "dots.llm1: shared experts, a window in later layers": tiny_config("dots1"),
    "qwen2 moe: a gate before the shared expert": tiny_config("qwen2_moe"),
    "qwen2 moe without biases, renormalised, a window in some layers": tiny_config("qwen2_moe")
    | {
        "qkv_bias": False,
        "norm_topk_prob": True,
        "use_sliding_window": True,
        "sliding_window": 20,
        "mlp_only_layers": [1],
    },
    "olmoe: norms over all heads, weights as they are": tiny_config("olmoe"),
    "flex olmo: norms behind the blocks": tiny_config("flex_olmo"),
    "llama 4: experts of weighted inputs in every other layer, layers without rotation": tiny_config("llama4"),
    "ernie 4.5 moe: neighbours turn together, a corrected choice": tiny_config("ernie4_5_moe"),
    "granite moe: multipliers, fused stacks": tiny_config("granitemoe"),
    "minimax m2: norms over all heads, half of each rotates": tiny_config("minimax_m2"),
    "qwen3 moe: a dense layer before experts": tiny_config("qwen3_moe"),
    "qwen3 moe without renormalisation, a window": tiny_config("qwen3_moe")
    | {"norm_topk_prob": False, "use_sliding_window": True, "sliding_window": 24, "mlp_only_layers": []},
    "olmo3: scaled positions in full layers alone": tiny_config("olmo3"),
    "olmo3, transformers 4, biases": {
        key: value for key, value in tiny_config("olmo3").items() if key not in ("rope_parameters", "layer_types")
    }
    | {"attention_bias": True, "rope_theta": 500_000.0, "rope_scaling": YARN_ROPE | {"rope_theta": 500_000.0}},
    "glm: half of each head turns, neighbours together": tiny_config("glm"),
    "glm4: norms around the blocks": tiny_config("glm4"),
    "glm4 without biases, tied, whole heads": tiny_config("glm4")
    | {"attention_bias": False, "tie_word_embeddings": True, "rope_parameters": WHOLE_HEADS},
    "cohere: blocks side by side": tiny_config("cohere"),
    "cohere with biases, untied": tiny_config("cohere") | {"attention_bias": True, "tie_word_embeddings": False},
    "command r+: every head is normed by numbers of its own": tiny_config("cohere") | {"use_qk_norm": True},
    "cohere2: rotation in windows": tiny_config("cohere2"),
    "cohere2 by the pattern, with biases": {
        key: value for key, value in tiny_config("cohere2").items() if key != "layer_types"
    }
    | {"sliding_window_pattern": 3, "attention_bias": True},
    "exaone4: rotation in windows": tiny_config("exaone4"),
    "exaone4 without windows rotates everywhere": tiny_config("exaone4")
    | {"sliding_window": None, "layer_types": ["full_attention"] * 3, "tie_word_embeddings": True},
    "ernie4_5: neighbours turn together": tiny_config("ernie4_5"),
    "ernie4_5 with biases, untied": tiny_config("ernie4_5") | {"use_bias": True, "tie_word_embeddings": False},
    "seed_oss: biases before attention": tiny_config("seed_oss"),
    "seed_oss with biases behind attention and in the block": tiny_config("seed_oss")
    | {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True},
    "hunyuan: norms behind a stretched rotation": tiny_config("hunyuan_v1_dense"),
    "hunyuan with a plain rotation, biases, tied": tiny_config("hunyuan_v1_dense")
    | {"rope_parameters": PLAIN_ROPE, "attention_bias": True, "tie_word_embeddings": True},
    "hunyuan with experts beside a shared block": tiny_config("hunyuan_v1_moe"),
    "hunyuan with experts: one of four, biases, tied": tiny_config("hunyuan_v1_moe")
    | {"rope_parameters": PLAIN_ROPE, "attention_bias": True, "tie_word_embeddings": True}
    | {"num_experts": 4, "moe_topk": 1},
    "arcee: squares without a gate": tiny_config("arcee"),
    "arcee with yarn, biases": tiny_config("arcee")
    | {"rope_parameters": YARN_ROPE, "attention_bias": True, "mlp_bias": True},
    "gemma: its gelu is the tanh form": tiny_config("gemma") | {"hidden_act": "gelu"},
    "gemma with biases, untied": tiny_config("gemma") | {"attention_bias": True, "tie_word_embeddings": False},
    "internlm2: the queries of a key head beside it": tiny_config("internlm2"),
    "internlm2 with biases, every head its own key, tied": tiny_config("internlm2")
    | {"bias": True, "num_key_value_heads": 4, "tie_word_embeddings": True, "rope_scaling": None},
    "internlm3: dynamic positions within the trained length": tiny_config("internlm3"),
    "internlm3 with biases": tiny_config("internlm3")
    | {"qkv_bias": True, "bias": True, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "helium: neighbours turn together": tiny_config("helium"),
    "helium with biases, tied": tiny_config("helium")
    | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "lfm2: short convolutions": tiny_config("lfm2"),
    "lfm2 with biases, a kernel of four, a final width": tiny_config("lfm2")
    | {"conv_bias": True, "conv_L_cache": 4, "block_auto_adjust_ff_dim": False},
    "lfm2 moe: experts behind a dense layer": tiny_config("lfm2_moe"),
    "qwen3 next: the gated delta rule, a dense layer": tiny_config("qwen3_next"),
    "kimi linear: a decay for every number of a key, latents that do not rotate": tiny_config("kimi_linear"),
    "kimi linear in the words of transformers, groups, no dense layer": {
        key: value for key, value in tiny_config("kimi_linear").items() if key != "linear_attn_config"
    }
    | {"linear_head_dim": 16, "linear_num_heads": 4, "linear_conv_kernel_dim": 3}
    | {"layer_types": ["full_attention", "linear_attention", "linear_attention"]}
    | {"num_expert_group": 4, "topk_group": 2, "mlp_layer_types": ["sparse"] * 3},
    "qwen3.5: gated delta rule, as many key as value heads, biases": tiny_config("qwen3_5")
    | {"linear_num_value_heads": 2, "linear_conv_kernel_dim": 3, "attention_bias": True},
    "qwen3.5 moe: experts in every layer": tiny_config("qwen3_5_moe"),
    "granite 4: mamba-2, experts beside a shared block": tiny_config("granitemoehybrid"),
    "granite 4 without experts, transformers 4": tiny_config("granitemoehybrid")
    | {
        "layer_types": ["mamba", "mamba", "attention"],
        "position_embedding_type": "nope",
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "mamba_d_head": 16,
        "mamba_proj_bias": True,
        "mamba_conv_bias": False,
        "attention_bias": True,
    },
    "granite 4, attention alone, which rotates": tiny_config("granitemoehybrid")
    | {"layer_types": ["full_attention"] * 3, "position_embedding_type": "rope", "num_local_experts": 0},
    "bamba: mamba-2, half of each head rotates": tiny_config("bamba"),
    "bamba with biases, attention first, tied": tiny_config("bamba")
    | {"attn_layer_indices": [0], "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "falcon-h1: mamba-2 beside attention, multipliers": tiny_config("falcon_h1"),
    "falcon-h1 with a norm before the gate, biases, tied": tiny_config("falcon_h1")
    | {"mamba_rms_norm": True, "mamba_norm_before_gate": True, "tie_word_embeddings": True}
    | {"attention_in_multiplier": 1.0, "ssm_in_multiplier": 1.0}
    | dict.fromkeys(("attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"), True),
    "granite moe, experts beside a shared block": tiny_config("granitemoeshared"),
    "granite moe without a shared block, biases, untied": tiny_config("granitemoeshared")
    | {"shared_intermediate_size": 0, "attention_bias": True, "tie_word_embeddings": False},
    "mellum: two rotations, a dense layer": tiny_config("mellum"),
    "mellum with experts everywhere, yarn, biases, tied": tiny_config("mellum")
    | {"mlp_layer_types": ["sparse"] * 2, "attention_bias": True, "norm_topk_prob": False, "tie_word_embeddings": True}
    | {"rope_parameters": {"full_attention": YARN_ROPE, "sliding_attention": PLAIN_ROPE}},
    "exaone moe: rotation in windows, a shared expert": tiny_config("exaone_moe"),
    "exaone moe by the pattern, groups, no dense layer, tied": {
        key: value for key, value in tiny_config("exaone_moe").items() if key != "layer_types"
    }
    | {"sliding_window_pattern": 2, "n_group": 4, "topk_group": 2, "mlp_layer_types": ["sparse"] * 2}
    | {"norm_topk_prob": False, "tie_word_embeddings": True},
    "afmoe: gated heads, norms around the blocks, rotation in windows": tiny_config("afmoe"),
    "afmoe by the pattern, experts in every layer, tied": {
        key: value for key, value in tiny_config("afmoe").items() if key != "layer_types"
    }
    | {"global_attn_every_n_layers": 2, "num_dense_layers": 0, "mup_enabled": False, "tie_word_embeddings": True},
    "solar open: experts in every layer": tiny_config("solar_open"),
    "solar open with biases, groups, yarn, tied": tiny_config("solar_open")
    | {"attention_bias": True, "n_group": 4, "topk_group": 2, "norm_topk_prob": False}
    | {"rope_parameters": YARN_ROPE, "tie_word_embeddings": True},
    "nanochat: norms without numbers, a normed embedding, pairs that turn back": tiny_config("nanochat"),
    "nanochat with biases, linear positions, no soft cap, tied": tiny_config("nanochat")
    | {"attention_bias": True, "final_logit_softcapping": None, "tie_word_embeddings": True}
    | {"rope_parameters": PLAIN_ROPE | {"rope_type": "linear", "factor": 2.0}},
    "phimoe: two experts weighed one after the other, biases": tiny_config("phimoe"),
    "phimoe with longrope within the trained length, a window, no biases, tied": tiny_config("phimoe")
    | {"attention_bias": False, "lm_head_bias": False, "tie_word_embeddings": True, "sliding_window": 24}
    | {"rope_parameters": WHOLE_LONGROPE | {"original_max_position_embeddings": 512, **MSCALES}},
    "mimo v2 flash: values of a size of their own, sinks and more key heads in windows": tiny_config("mimo_v2_flash"),
    "mimo v2 flash with biases, groups of experts, sliding layers first, tied": tiny_config("mimo_v2_flash")
    | {"attention_bias": True, "attention_value_scale": None, "n_group": 4, "topk_group": 2, "norm_topk_prob": False}
    | {"layer_types": ["sliding_attention", "full_attention"], "mlp_layer_types": ["sparse", "sparse"]}
    | {"tie_word_embeddings": True},
    "nemotron-h: blocks in a row, experts without gates": tiny_config("nemotron_h"),
    "nemotron 3: experts of latents": tiny_config("nemotron_h") | {"moe_latent_size": 20},
    "nemotron-h by letters, biases, groups of experts": {
        key: value for key, value in tiny_config("nemotron_h").items() if key != "layers_block_type"
    }
    | {"hybrid_override_pattern": "*-MME", "n_group": 4, "topk_group": 2, "mlp_bias": True}
    | {"use_bias": True, "use_conv_bias": False, "norm_topk_prob": False},
    "phi: the head has a bias": tiny_config("phi"),
    "phi with normed heads": tiny_config("phi") | {"qk_layernorm": True},
    "nemotron: norms of 1 + scale around the mean": tiny_config("nemotron"),
    "nemotron with biases, tied": tiny_config("nemotron")
    | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "apertus: xielu": tiny_config("apertus"),
    "apertus with biases and another activation": tiny_config("apertus")
    | {"attention_bias": True, "hidden_act": "relu2", "rope_parameters": PLAIN_ROPE},
    "gpt_neox: fused by head, blocks side by side": tiny_config("gpt_neox"),
    "gpt_neox with blocks in turn, no biases, transformers 4": {
        key: value for key, value in tiny_config("gpt_neox").items() if key != "rope_parameters"
    }
    | {"use_parallel_residual": False, "attention_bias": False, "rotary_emb_base": 500, "rotary_pct": 0.5},
    "olmo: limited queries, keys and values": tiny_config("olmo"),
    "olmo without a limit, with biases, tied": tiny_config("olmo")
    | {"clip_qkv": None, "attention_bias": True, "tie_word_embeddings": True},
    "hyperclovax: norms around the blocks, multipliers": tiny_config("hyperclovax"),
    "hyperclovax with norms before, biases, its own scale": tiny_config("hyperclovax")
    | {"use_post_norm": False, "attention_multiplier": None, "attention_bias": True, "mlp_bias": True},
    "cwm: full layers first": tiny_config("cwm"),
    "ministral: windows by layer": tiny_config("ministral"),
    "jais2: biases, squares without a gate": tiny_config("jais2"),
    "jais2 without biases": tiny_config("jais2") | {"attention_bias": False, "mlp_bias": False},
    "vaultgemma: norms before the blocks alone": tiny_config("vaultgemma"),
    "granite_swa: sinks, a theta for each layer": tiny_config("granite_swa"),
    "granite_swa with one theta, untied": tiny_config("granite_swa")
    | {"layer_rope_theta": None, "tie_word_embeddings": False},
}
