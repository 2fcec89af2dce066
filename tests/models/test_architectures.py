"""config.json → DecoderSpec: what transformers writes is understood, and what is not understood is refused by name."""

import json
from dataclasses import replace

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from jaxserve.errors import UnknownArchitecture
from jaxserve.layers.rope import LinearScaling, Llama3Scaling, RopeSpec, YarnScaling
from jaxserve.models import registry
from jaxserve.models.spec import AttentionSpec, DecoderSpec
from tests.models.published import PUBLISHED
from tests.models.published.other_keys import OTHER_KEYS
from tests.models.tiny import tiny_config

CLASSES = [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config]
TINY = ["llama", "mistral", "qwen2", "qwen3"]
SIZES = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 1000,
}


GEMMA4_ROPES = tiny_config("gemma4")["rope_parameters"]
UNIFIED = {"model_type": "gemma4_unified_text"}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
NO_PAIR = {"rope_type": "proportional", "rope_theta": 1e4, "partial_rotary_factor": 0.01}


def read(config: dict):
    return registry.find_architecture(config).spec(config)


def llama(**changes):
    return read({"architectures": ["LlamaForCausalLM"], "model_type": "llama"} | SIZES | changes)


def first(spec: DecoderSpec) -> AttentionSpec:
    return spec.layers[0].attention


def windows(spec: DecoderSpec) -> tuple[int | None, ...]:
    return tuple(layer.attention.window for layer in spec.layers)


@pytest.mark.parametrize("config_class", CLASSES)
@pytest.mark.parametrize("whole", [False, True])
def test_what_transformers_saves_is_understood(config_class, whole, tmp_path):
    name = config_class.__name__.replace("Config", "ForCausalLM")
    config_class(architectures=[name]).to_json_file(tmp_path / "config.json", use_diff=not whole)
    spec = read(json.loads((tmp_path / "config.json").read_text()))
    assert (spec.architecture_name, spec.num_layers, first(spec).head_dim) == (name, 32, 128)
    assert first(spec).rope == RopeSpec(10_000.0)


@pytest.mark.parametrize("name", TINY)
def test_both_spellings_of_transformers_mean_the_same(name):
    new = tiny_config(name)
    rope = dict(new.pop("rope_parameters"))
    old = new | {"rope_theta": rope.pop("rope_theta"), "torch_dtype": "bfloat16"}
    old |= {"rope_scaling": None if rope["rope_type"] == "default" else rope}
    assert read(old) == read(tiny_config(name))


def test_the_original_smollm2_config_is_understood():
    """config.json of HuggingFaceTB/SmolLM2-135M-Instruct, written by transformers 4.42."""
    spec = llama(
        attention_bias=False,
        attention_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
        hidden_size=576,
        initializer_range=0.041666666666666664,
        intermediate_size=1536,
        is_llama_config=True,
        max_position_embeddings=8192,
        mlp_bias=False,
        num_attention_heads=9,
        num_hidden_layers=30,
        num_key_value_heads=3,
        pad_token_id=2,
        pretraining_tp=1,
        rms_norm_eps=1e-05,
        rope_interleaved=False,
        rope_scaling=None,
        rope_theta=100000,
        tie_word_embeddings=True,
        torch_dtype="bfloat16",
        transformers_version="4.42.3",
        use_cache=True,
        vocab_size=49152,
        **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}},
    )
    assert (first(spec).head_dim, first(spec).num_kv_heads, spec.tie_embeddings, first(spec).rope) == (
        64,
        3,
        True,
        RopeSpec(100_000.0),
    )


def test_what_a_config_leaves_out_has_transformers_defaults():
    spec = llama()
    assert (first(spec).num_kv_heads, first(spec).head_dim, spec.norm.eps, spec.tie_embeddings) == (4, 16, 1e-6, False)
    assert first(read({"architectures": ["Qwen3ForCausalLM"]} | SIZES | {"num_attention_heads": 32})).head_dim == 128
    assert windows(read({"architectures": ["MistralForCausalLM"]} | SIZES | {"num_attention_heads": 8})) == (4096,) * 3


def test_windows_are_those_of_each_family():
    assert windows(llama()) == (None, None, None)
    assert windows(read(tiny_config("mistral"))) == (24, 24, 24)
    assert windows(read(tiny_config("mistral") | {"sliding_window": None})) == (None, None, None)
    assert windows(read(tiny_config("ministral") | {"sliding_window": None, "layer_types": None})) == (None,) * 3
    assert windows(read(tiny_config("qwen2"))) == (None, 20, 20)
    assert windows(read(tiny_config("qwen2") | {"use_sliding_window": False})) == (None, None, None)


def test_positions_are_read_with_their_scalings():
    llama3 = {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
    assert first(llama(rope_scaling={"type": "linear", "factor": 2.0})).rope == RopeSpec(1e4, LinearScaling(2.0))
    assert first(llama(rope_scaling=llama3, rope_theta=5e5)).rope == RopeSpec(5e5, Llama3Scaling(8, 1, 4, 2048))
    yarn = first(
        llama(rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512})
    ).rope
    assert yarn == RopeSpec(1e4, YarnScaling(4.0, 512, 32.0, 1.0, pytest.approx(1.1386294), True))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 2.0},
    LLAMA3,
    {"rope_type": "yarn", "factor": 4.0},
]


@pytest.mark.parametrize("scaling", SCALINGS)
def test_both_spellings_of_positions_may_stand_together_if_they_agree(scaling):
    new = {"rope_theta": 5e5, **scaling}
    old = {("type" if key == "rope_type" else key): value for key, value in scaling.items()}
    expected = first(llama(rope_parameters=new)).rope
    for both in (
        {"rope_parameters": new, "rope_theta": 5e5},
        {"rope_parameters": new, "rope_scaling": scaling},
        {"rope_parameters": new, "rope_scaling": old, "rope_theta": 5e5},
        {"rope_parameters": scaling, "rope_scaling": {}, "rope_theta": 5e5},
        {"rope_scaling": {**scaling, **old}, "rope_theta": 5e5},
    ):
        assert first(llama(**both)).rope == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_parameters: 'rope_theta' is 500000"),
        (
            {"rope_parameters": {"rope_theta": 5e5, **LLAMA3}, "rope_scaling": LLAMA3 | {"factor": 32.0}},
            "'rope_scaling'",
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": LLAMA3},
            "'rope_scaling' is .* what rope_parameters says",
        ),
        ({"rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 2.0}}, "rope_scaling: 'type' is 'yarn'"),
    ],
)
def test_spellings_of_positions_that_disagree_are_refused_by_name(changes, message):
    with pytest.raises(UnknownArchitecture, match=message):
        llama(**changes)


def test_the_architecture_may_be_named_by_model_type_alone():
    config = {key: value for key, value in tiny_config("qwen3").items() if key != "architectures"}
    assert read(config) == read(tiny_config("qwen3"))


@pytest.mark.parametrize(
    "named",
    [{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}, {"architectures": ["LlamaModel"]}, {}],
)
def test_an_unknown_architecture_is_answered_with_the_known_ones(named):
    with pytest.raises(UnknownArchitecture, match=r"of the model types \w+, .*llama, .*, qwen3, .*, gemma3"):
        registry.find_architecture(named | SIZES)


def test_an_architecture_that_is_known_and_not_computed_is_refused_by_what_it_has():
    with pytest.raises(UnknownArchitecture, match="DeepseekV32ForCausalLM has attention to the tokens that an indexer"):
        registry.find_architecture({"architectures": ["DeepseekV32ForCausalLM"], "model_type": "deepseek_v32"})


def test_kimi_k2_is_deepseek_v3_under_its_own_model_type():
    """config.json of moonshotai/Kimi-K2-Instruct, without its quantization."""
    config = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "kimi_k2",
        "aux_loss_alpha": 0.001,
        "ep_size": 1,
        "seq_aux": True,
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 0,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }
    published, _ = PUBLISHED["Kimi-K2"]
    spec = read(published | config)
    assert spec == read(published)
    assert (spec.layers[0].attention.scale, spec.layers[1].mlp.router.num_groups) == (pytest.approx(0.1308608), 1)


@pytest.mark.parametrize("name", OTHER_KEYS)
def test_every_key_of_a_published_file_is_understood(name):
    """With the keys that concern no size, which are left out of the table of published models."""
    published, _ = PUBLISHED[name]
    assert not published.keys() & OTHER_KEYS[name].keys()
    assert read(published | OTHER_KEYS[name]) == read(published)


def test_other_names_of_nemotron_h_mean_the_same():
    config = tiny_config("nemotron_h")
    names = {"n_groups": "mamba_n_groups", "conv_kernel": "mamba_d_conv", "time_step_min": "mamba_dt_min"}
    renamed = {names.get(key, key): value for key, value in config.items()} | {
        "mamba_conv_bias": False,
        "mamba_dt_limit": [0.0, float("inf")],
    }
    assert read(renamed) == read(config | {"use_conv_bias": False})


@pytest.mark.parametrize("name", ["falcon_h1", "nemotron_h", "phimoe", "mistral"])
def test_null_key_heads_are_as_many_as_query_heads(name):
    config = tiny_config(name)
    spec = read(config | {"num_key_value_heads": None})
    assert spec == read(config | {"num_key_value_heads": config["num_attention_heads"]})


@pytest.mark.parametrize(
    ("changes", "other_key"),
    [
        ({"hybrid_layer_pattern": [1, 0]}, "layer_types"),
        ({"moe_layer_freq": [1, 1]}, "mlp_layer_types"),
    ],
)
def test_marks_of_mimo_agree_with_the_types_of_layers(changes, other_key):
    config = tiny_config("mimo_v2_flash")
    assert read(config | {"hybrid_layer_pattern": [0, 1], "moe_layer_freq": [0, 1]}) == read(config)
    (key,) = changes
    with pytest.raises(UnknownArchitecture, match=f"'{key}'.*{other_key}"):
        read(config | changes)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "gptq"}),
        ("embedding_multiplier", 12.0),
        ("partial_rotary_factor", 0.5),
        ("use_mrope", True),
        ("hidden_act", "tanh"),
        ("rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
        ("some_future_key", None),
    ],
)
def test_a_key_that_would_change_the_arithmetic_is_refused_by_name(name, key, value):
    config = {k: v for k, v in tiny_config(name).items() if not (key == "rope_scaling" and k == "rope_parameters")}
    named = "rope_type" if key == "rope_scaling" else key
    with pytest.raises(UnknownArchitecture, match=f"'{named}'"):
        read(config | {key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": 66}, "'hidden_size' is 66.*multiple"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many'"),
        ({"num_key_value_heads": 3}, "'num_key_value_heads' is 3.*divisor"),
        ({"head_dim": 15}, "'head_dim' is 15.*even"),
        ({"rms_norm_eps": -1}, "'rms_norm_eps' is -1"),
        ({"model_type": "cohere"}, "'model_type' is 'cohere'"),
        ({"sliding_window": 128}, "'sliding_window' is 128"),
        ({"layer_types": ["linear_attention"] * 3}, "'layer_types'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "'rope_type' is 'dynamic'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters: 'factor' is missing"),
        ({"rope_parameters": {"rope_theta": 1e4, "mrope_section": [4, 2, 2]}}, "'mrope_section'"),
        ({"rope_parameters": 7}, "'rope_parameters' is 7"),
        ({"rope_parameters": {"rope_theta": 1e4}, "rope_scaling": {"type": "linear", "factor": 2}}, "'rope_scaling'"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(UnknownArchitecture, match=message):
        llama(**changes)


@pytest.mark.parametrize(
    ("name", "changes", "key"),
    [
        ("mistral", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"attention_bias": False}, "attention_bias"),
        ("qwen2", {"use_sliding_window": False, "layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen3", {"mlp_bias": True}, "mlp_bias"),
        ("stablelm", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("starcoder2", {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ("starcoder2", {"mlp_type": "gated"}, "mlp_type"),
        ("olmo3", {"rope_parameters": {"linear_attention": {}}}, "rope_parameters"),
        ("gemma4_e2b", {"architectures": ["Gemma4UnifiedForCausalLM"]} | UNIFIED, "hidden_size_per_layer_input"),
        ("gemma4", {"hidden_size_per_layer_input": -1}, "hidden_size_per_layer_input"),
        ("gemma4", {"num_kv_shared_layers": 1}, "num_kv_shared_layers"),
        ("gemma4_e2b", {"num_kv_shared_layers": 3}, "num_kv_shared_layers"),
        ("gemma4_e2b", {"num_kv_shared_layers": 6}, "num_kv_shared_layers"),
        ("gemma4", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ("gemma4", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("gemma4", {"num_global_key_value_heads": 3}, "num_global_key_value_heads"),
        ("gemma4", {"global_head_dim": 31}, "global_head_dim"),
        ("gemma4", {"per_layer_config": {"0": {"head_dim": 64}}}, "per_layer_config"),
        ("gemma4", {"per_layer_config": {"1": {"intermediate_size": 64}}}, "intermediate_size"),
        ("gemma4", {"rope_parameters": {"full_attention": {}}}, "rope_parameters"),
        ("gemma4", {"rope_parameters": GEMMA4_ROPES | {"other_attention": {}}}, "rope_parameters"),
        ("gemma4", {"rope_parameters": GEMMA4_ROPES | {"full_attention": NO_PAIR}}, "partial_rotary_factor"),
        ("gemma4", {"top_k_experts": 9}, "top_k_experts"),
        ("gemma4", {"num_experts": None}, "num_experts"),
        ("glm4", {"mlp_bias": True}, "mlp_bias"),
        ("cohere2", {"layer_switch": 3}, "layer_switch"),
        ("cohere2", {"use_parallel_block": False}, "use_parallel_block"),
        ("exaone4", {"attention_bias": True}, "attention_bias"),
        ("exaone4", {"layer_types": None, "sliding_window_pattern": "LLLG"}, "sliding_window_pattern"),
        ("ernie4_5", {"attention_bias": True}, "attention_bias"),
        ("hunyuan_v1_dense", {"use_cla": True}, "use_cla"),
        ("hunyuan_v1_dense", {"rope_parameters": {"rope_type": "dynamic"}}, "alpha"),
        ("gemma", {"hidden_act": "silu"}, "hidden_act"),
        ("gemma", {"hidden_activation": "silu"}, "hidden_activation"),
        ("internlm3", {"qkv_bias": True}, "bias"),
        ("helium", {"sliding_window": 8}, "sliding_window"),
        ("minicpm3", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("minicpm3", {"qk_rope_head_dim": 7}, "qk_rope_head_dim"),
        ("minicpm3", {"rope_interleave": True}, "rope_interleave"),
        ("deepseek_v2", {"norm_topk_prob": True}, "norm_topk_prob"),
        ("deepseek_v2", {"scoring_func": "sigmoid"}, "scoring_func"),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method"),
        ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq"),
        ("deepseek_v3", {"index_topk": 2048}, "index_topk"),
        ("glm4_moe_lite", {"mlp_layer_types": ["dense"]}, "mlp_layer_types"),
        ("youtu", {"mlp_bias": True}, "mlp_bias"),
        ("phi", {"tie_word_embeddings": True}, "tie_word_embeddings"),
        ("nemotron", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("apertus", {"post_norm": True}, "post_norm"),
        ("apertus", {"rope_parameters": None, "rope_theta": 1e4}, "rope_theta"),
        ("llama", {"hidden_act": "xielu"}, "hidden_act"),
        ("gpt_neox", {"num_key_value_heads": 2}, "num_key_value_heads"),
        ("olmo", {"clip_qkv": -1.0}, "clip_qkv"),
        ("hyperclovax", {"sliding_window": 8}, "sliding_window"),
        ("cwm", {"attention_bias": True}, "attention_bias"),
        ("ministral", {"attention_bias": True}, "attention_bias"),
        ("jais2", {"rms_norm_eps": 1e-5}, "rms_norm_eps"),
        ("granite_swa", {"layer_rope_theta": [1e4]}, "layer_rope_theta"),
        ("granitemoehybrid", {"layer_types": ["conv"] * 3}, "layer_types"),
        ("granitemoehybrid", {"position_embedding_type": "alibi"}, "position_embedding_type"),
        ("granitemoehybrid", {"normalization_function": "layernorm"}, "normalization_function"),
        ("granitemoehybrid", {"time_step_limit": [0.0, 0.1]}, "time_step_limit"),
        ("granitemoehybrid", {"hidden_act": "gelu"}, "hidden_act"),
        ("bamba", {"mamba_n_groups": 3}, "mamba_n_heads"),
        ("bamba", {"mamba_d_head": 8}, "mamba_d_head"),
        ("bamba", {"mamba_d_conv": 1}, "mamba_d_conv"),
        ("bamba", {"attn_layer_indices": [3]}, "attn_layer_indices"),
        ("bamba", {"attn_rotary_emb": 16}, "attn_rotary_emb"),
        ("nemotron_h", {"layers_block_type": ["mlp", "linear_attention"]}, "layers_block_type"),
        ("nemotron_h", {"layers_block_type": ["full_attention", "mlp", "moe"]}, "layers_block_type"),
        ("nemotron_h", {"layers_block_type": None, "hybrid_override_pattern": "M-X"}, "layers_block_type"),
        ("nemotron_h", {"moe_latent_size": 16, "mlp_bias": True}, "mlp_bias"),
        ("mellum", {"mlp_layer_types": ["dense"]}, "mlp_layer_types"),
        ("exaone_moe", {"is_moe_layer": [True, True]}, "is_moe_layer"),
        ("afmoe", {"route_norm": False}, "route_norm"),
        ("afmoe", {"attention_bias": True}, "attention_bias"),
        ("nanochat", {"rope_parameters": YARN}, "rope_parameters"),
        ("phimoe", {"num_experts_per_tok": 3}, "num_experts_per_tok"),
        ("phimoe", {"rope_parameters": {"short_mscale": 1.0, "long_mscale": 2.0}}, "rope_parameters"),
        ("mimo_v2_flash", {"swa_head_dim": 16}, "swa_head_dim"),
        ("mimo_v2_flash", {"num_key_value_heads": 4}, "num_key_value_heads"),
        ("mimo_v2_flash", {"add_full_attention_sink_bias": True}, "add_full_attention_sink_bias"),
        ("nemotron_h", {"n_groups": 3}, "mamba_num_heads"),
        ("falcon_h1", {"ssm_multipliers": [1.0, 1.0]}, "ssm_multipliers"),
        ("falcon_h1", {"mlp_multipliers": [1.0, "x"]}, "mlp_multipliers"),
        ("falcon_h1", {"attention_bias": True}, "attention_in_multiplier"),
        ("falcon_h1", {"projectors_bias": True}, "projectors_bias"),
        ("nemotron_h", {"conv_kernel": 1}, "conv_kernel"),
        ("nemotron_h", {"norm_eps": 1e-6}, "norm_eps"),
        ("nemotron_h", {"mamba_n_groups": 4}, "mamba_n_groups"),
        ("falcon_h1", {"attn_layer_indices": [0]}, "attn_layer_indices"),
        ("qwen3_next", {"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim"),
        ("kimi_linear", {"linear_attn_config": {"short_conv_kernel_size": 1}}, "short_conv_kernel_size"),
        ("kimi_linear", {"linear_attn_config": 3}, "linear_attn_config"),
        ("lfm2", {"conv_L_cache": 1}, "conv_L_cache"),
        ("lfm2_moe", {"num_dense_layers": -1}, "num_dense_layers"),
        ("mimo_v2_flash", {"hybrid_layer_pattern": 3}, "hybrid_layer_pattern"),
        ("mimo_v2_flash", {"moe_layer_freq": 1}, "moe_layer_freq"),
        ("qwen2", {"layer_types": 3}, "layer_types"),
        ("llama4", {"layer_types": ["full_attention"]}, "layer_types"),
        ("llama4", {"no_rope_layers": [1, 0, 1, 0]}, "no_rope_layers"),
    ],
)
def test_a_setting_that_a_family_does_not_have_is_refused(name, changes, key):
    with pytest.raises(UnknownArchitecture, match=f"'{key}'"):
        read(tiny_config(name) | changes)


def test_a_spec_is_a_value():
    assert read(tiny_config("llama")) == read(tiny_config("llama"))
    assert hash(read(tiny_config("llama"))) == hash(read(tiny_config("llama")))
    assert replace(llama(), logits_multiplier=2.0) != llama()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("glm4_moe", {"n_group": 3}, "'n_group' is 3; .* groups that can be chosen from"),
        ("glm4_moe", {"scoring_func": "softmax"}, "'scoring_func' is 'softmax'"),
        ("glm4_moe", {"num_local_experts": 9}, "'n_routed_experts' is 8; .* 9, as beside it"),
        ("gpt_oss", {"experts_per_token": 3}, "'experts_per_token' is 3"),
        ("ernie4_5_moe", {"use_bias": True}, "'use_bias' is True"),
        ("olmoe", {"clip_qkv": 8.0}, "'clip_qkv' is 8.0"),
        ("llama4", {"no_rope_layers": [1, 0]}, "'no_rope_layers'"),
        ("llama4", {"layer_types": ["sliding_attention"] * 3}, "'layer_types'"),
    ],
)
def test_mixtures_that_are_not_understood_are_refused_by_name(name, changes, message):
    with pytest.raises(UnknownArchitecture, match=message):
        read(tiny_config(name) | changes)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_more_experts_a_token_than_there_are_is_refused_by_name(family):
    with pytest.raises(UnknownArchitecture, match=r"'num_experts_per_tok' is 9; .* experts that there are"):
        read(tiny_config(family) | {"num_experts_per_tok": 9})
