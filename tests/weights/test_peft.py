"""Adapters of PEFT: what is read changes the matrices as PEFT would, and what is not served is refused by its name."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxserve.errors import BadCheckpoint
from jaxserve.models.registry import find_architecture
from jaxserve.weights.peft import read_adapter
from tests.models.tiny import random_weights, tiny_config
from tests.weights.peft_writer import ALPHA, write_adapter, write_config

FAMILIES = ["llama", "gemma3", "qwen3_moe", "deepseek_v2", "phi3", "stablelm"]


def load(family="llama"):
    config = tiny_config(family)
    architecture = find_architecture(config)
    return architecture.params(architecture.spec(config)), random_weights(config, seed=3)


@pytest.fixture(scope="module")
def llama():
    return load()


def read(written, params, max_rank=64):
    return read_adapter(written.directory, "sql", params, max_rank)


def check_changes(written, adapter, params):
    """Every matrix whose tensor is changed has that change: its own rows of it."""
    changed = 0
    for path, param in params.items():
        sources = [source for origin in param.origins for source in origin.sources if source.name in written.changes]
        assert (path in adapter.factors) == bool(sources), path
        if sources:
            down_IR, up_RO = adapter.factors[path]
            change = sources[0].read(lambda name, part: written.changes[name][part])
            np.testing.assert_allclose(down_IR @ up_RO, change, atol=1e-5)
            changed += 1
    assert changed >= len(written.changes) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_each_matrix_has_the_change_of_its_module(tmp_path, family):
    params, weights = load(family)
    without_experts = {name: value for name, value in weights.items() if ".experts." not in name and "kv_b" not in name}
    written = write_adapter(tmp_path, without_experts)
    check_changes(written, read(written, params), params)


def test_a_fused_module_changes_all_matrices_that_it_holds(tmp_path):
    params, weights = load("phi3")
    written = write_adapter(tmp_path, weights, modules=lambda name: "qkv_proj" in name)
    assert {path[-2] for path in read(written, params).factors} == {"query", "key", "value"}


def test_ranks_and_scales_follow_their_patterns(tmp_path, llama):
    params, weights = llama
    written = write_adapter(
        tmp_path,
        weights,
        rank=4,
        rank_of=lambda module: 8 if module.endswith("v_proj") else 4,
        scale_of=lambda module: (3 if ".0." in module else ALPHA) / (8 if module.endswith("v_proj") else 4),
        rank_pattern={"self_attn.v_proj": 8},
        alpha_pattern={r"model\.layers\.0\..*": 3},
    )
    adapter = read(written, params)
    check_changes(written, adapter, params)
    assert adapter.rank == 8


def test_a_stabilised_rank_has_a_scale_of_its_root(tmp_path, llama):
    params, weights = llama
    written = write_adapter(tmp_path, weights, rank=9, scale_of=lambda _: ALPHA / math.sqrt(9), use_rslora=True)
    check_changes(written, read(written, params), params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("targets", ["all-linear", r".*(self_attn|mlp).*"])
def test_short_types_and_any_form_of_targets_are_read(tmp_path, llama, dtype, targets):
    params, weights = llama
    written = write_adapter(tmp_path, weights, dtype=dtype)
    write_config(tmp_path, target_modules=targets)
    check_changes(written, read(written, params), params)


def test_modules_of_the_text_part_are_found_below_any_prefix(tmp_path, llama):
    params, weights = llama
    written = write_adapter(tmp_path, weights)
    plain = read(written, params)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    renamed = {name.replace("model.model.", "model.model.language_model."): value for name, value in tensors.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    other = read(written, params)
    assert other.factors.keys() == plain.factors.keys() and other.key != plain.key


def test_the_same_files_have_the_same_key(tmp_path, llama):
    params, weights = llama
    one, same = (read(write_adapter(tmp_path / name, weights), params) for name in ("one", "same"))
    other = read(write_adapter(tmp_path / "other", weights, seed=1), params)
    assert one == same != other


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"bias": "all"}, "bias='all'"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=\"['lm_head']\""),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        ({"trainable_token_indices": [1]}, "token embeddings"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "experts"),
        ({"new_method": 3}, "new_method='3': the key is not known"),
        ({"r": 0}, "r='0'"),
        ({"r": 65}, "--max-lora-rank 65"),
        ({"rank_pattern": {"v_proj": 99}}, "--max-lora-rank 99"),
        ({"rank_pattern": {"(": 9}}, "regular expression"),
        ({"lora_alpha": "x"}, "lora_alpha='x'"),
        ({"target_modules": ["q_proj", "fc9"]}, "'fc9' among its target_modules"),
        ({"r": 5}, "r=5 ask for"),
    ],
)
def test_what_a_config_asks_for_and_is_not_served_is_named(tmp_path, llama, config, words):
    params, weights = llama
    written = write_adapter(tmp_path, weights)
    write_config(tmp_path, **config)
    with pytest.raises(BadCheckpoint) as error:
        read(written, params)
    assert words in str(error.value)


MATRIX = np.ones((4, 64), np.float32)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"base_model.model.model.embed_tokens.lora_embedding_A": MATRIX}, "token embeddings"),
        (
            {"base_model.model.lm_head.lora_A.weight": MATRIX, "base_model.model.lm_head.lora_B.weight": MATRIX},
            "a changed output table",
        ),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": MATRIX}, "DoRA"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": MATRIX}, "lacks tensor"),
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias": MATRIX}, "biases"),
        ({"model.layers.0.self_attn.q_proj.weight": MATRIX}, "no matrix that an adapter"),
        ({}, "no tensors"),
    ],
)
def test_a_tensor_that_is_not_served_is_named(tmp_path, llama, tensors, words):
    write_config(tmp_path)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BadCheckpoint) as error:
        read_adapter(tmp_path, "sql", llama[0], 64)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["model.layers.9.self_attn.q_proj", "vision.layers.0.self_attn.q_proj", "q_proj"])
def test_a_module_that_the_model_lacks_is_named(tmp_path, llama, name):
    write_config(tmp_path)
    pair = {f"base_model.model.{name}.lora_{side}.weight": MATRIX for side in "AB"}
    save_file(pair, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BadCheckpoint, match="no matrix that an adapter"):
        read_adapter(tmp_path, "sql", llama[0], 64)


def test_changed_experts_are_refused(tmp_path):
    params, weights = load("qwen3_moe")
    written = write_adapter(tmp_path, weights, modules=lambda name: "experts" in name and "down_proj" in name)
    with pytest.raises(BadCheckpoint, match="changed experts are not served"):
        read(written, params)


def test_damaged_files_are_refused_with_a_sentence(tmp_path, llama):
    params, weights = llama
    with pytest.raises(BadCheckpoint, match="is no directory"):
        read_adapter(tmp_path / "none", "sql", params, 64)
    written = write_adapter(tmp_path, weights)
    file, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    whole, text = file.read_bytes(), config.read_text()
    file.write_bytes(whole[:-7])
    with pytest.raises(BadCheckpoint, match="past the end"):
        read(written, params)
    file.write_bytes(whole)
    config.write_text("[" + text)
    with pytest.raises(BadCheckpoint, match="cannot be read as JSON"):
        read(written, params)
    config.unlink()
    with pytest.raises(BadCheckpoint, match="is missing"):
        read(written, params)
    config.write_text(json.dumps({"peft_type": "LORA"}))
    file.rename(tmp_path / "adapter_model.bin")
    with pytest.raises(BadCheckpoint, match="could run code"):
        read(written, params)


def test_numbers_that_are_not_finite_are_refused(tmp_path, llama):
    params, weights = llama
    written = write_adapter(tmp_path, weights)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = math.nan
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BadCheckpoint, match="not finite"):
        read(written, params)
