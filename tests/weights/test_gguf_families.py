"""GGUF files of every family: the config means what the original's means, and every leaf is the original's."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from jaxserve.errors import BadCheckpoint
from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import check_checkpoint
from tests.models.cases import PLAIN_ROPE
from tests.models.paged import Paged, place
from tests.models.tiny import random_weights
from tests.models.torch_model import TorchModel
from tests.weights import gguf_writer
from tests.weights.gguf_cases import CASES, config

TOKENS = np.random.default_rng(1).integers(0, 272, 100).tolist()


def written(tmp_path, hf_config, tensors=None, **how):
    tensors = random_weights(hf_config, seed=3) if tensors is None else tensors
    return open_checkpoint(gguf_writer.write(tmp_path / "a.gguf", hf_config, tensors, **how))


def read(hf_config):
    return registry.find_architecture(hf_config).spec(hf_config)


def checked(checkpoint):
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    check_checkpoint(checkpoint, architecture.params(spec), ignored=architecture.ignored_tensors(spec))
    return checkpoint


def leaves_of(checkpoint):
    return place(checkpoint.config, {name: checkpoint.read(name) for name in checkpoint.tensors})


@pytest.mark.parametrize("name", CASES)
def test_the_config_means_what_the_original_s_means(tmp_path, name):
    assert read(written(tmp_path, CASES[name]).config) == read(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_every_leaf_is_the_original_s(tmp_path, name):
    """Exactly, but for norms that are stored with 1 added, which costs bits of the smaller of the two."""
    tensors = random_weights(CASES[name], seed=3)
    loaded, expected = leaves_of(checked(written(tmp_path, CASES[name], tensors))), place(CASES[name], tensors)
    assert loaded.keys() == expected.keys()
    for path, leaf in expected.items():
        tolerance = 1.2e-7 if CASES[name]["model_type"].startswith("gemma") and path[-1] == "scale" else 0
        np.testing.assert_allclose(loaded[path], leaf, rtol=0, atol=tolerance, err_msg=str(path))


@pytest.mark.parametrize("name", ["gemma3: a period of six layers", "phi4-mini: longrope, part of a head", "qwen3 moe"])
def test_logits_are_those_of_transformers_over_what_the_file_says(tmp_path, name):
    """With its own config, so that transformers reads the keys that we made up, too."""
    checkpoint = written(tmp_path, CASES[name])
    tensors = {each: checkpoint.read(each) for each in checkpoint.tensors}
    (logits,) = Paged.of(checkpoint.config, tensors).feed(TOKENS)
    unstacked = {}
    for each, value in tensors.items():
        if ".experts." in each:
            stem, projection = each.removesuffix(".weight").rsplit(".", 1)
            unstacked |= {f"{stem}.{expert}.{projection}.weight": part for expert, part in enumerate(value)}
        else:
            unstacked[each] = value
    expected = TorchModel(checkpoint.config | {"pad_token_id": 0}, unstacked).logits(TOKENS)
    assert np.abs(logits - expected).max() < 2e-4


def test_old_files_with_a_tensor_for_each_expert_give_the_same_leaves(tmp_path):
    tensors = random_weights(config("mixtral"), seed=3)
    checkpoint = checked(written(tmp_path, config("mixtral"), tensors, is_old=True))
    assert "model.layers.0.block_sparse_moe.experts.3.w1.weight" in checkpoint.tensors
    expected = place(config("mixtral"), tensors)
    for path, leaf in leaves_of(checkpoint).items():
        np.testing.assert_array_equal(leaf, expected[path])


def test_gate_and_up_of_experts_may_be_fused(tmp_path):
    hf_config = CASES["qwen3 moe"]
    tensors = random_weights(hf_config, seed=3)
    expected = place(hf_config, tensors)
    for layer in range(hf_config["num_hidden_layers"]):
        experts = f"model.layers.{layer}.mlp.experts"
        parts = [
            np.concatenate([tensors.pop(f"{experts}.{expert}.{name}_proj.weight") for name in ("gate", "up")])
            for expert in range(hf_config["num_experts"])
        ]
        tensors[f"blk.{layer}.ffn_gate_up_exps.weight"] = np.stack(parts)
    for path, leaf in leaves_of(checked(written(tmp_path, hf_config, tensors))).items():
        np.testing.assert_array_equal(leaf, expected[path])


def test_mixtral_may_have_a_window(tmp_path):
    checkpoint = written(tmp_path, config("mixtral"), metadata={"attention.sliding_window": 24})
    assert read(checkpoint.config) == read(config("mixtral", sliding_window=24))


@pytest.mark.parametrize("pattern", [3, [True, True, False, True, True, False, True]])
def test_a_file_may_say_which_layers_have_windows(tmp_path, pattern):
    hf_config = config("gemma3", "layer_types", num_hidden_layers=7)
    checkpoint = written(tmp_path, hf_config, metadata={"attention.sliding_window_pattern": pattern})
    assert read(checkpoint.config) == read(hf_config | {"sliding_window_pattern": 3})


def test_no_window_is_no_window_in_any_layer(tmp_path):
    checkpoint = written(tmp_path, CASES["gemma3: a period of six layers"], metadata={"attention.sliding_window": 0})
    assert {layer.attention.window for layer in read(checkpoint.config).layers} == {None}


@pytest.mark.parametrize(("stored", "window"), [(0, None), (24, 24)])
def test_starcoder2_files_may_say_another_window_than_the_published_models_have(tmp_path, stored, window):
    checkpoint = written(tmp_path, CASES["starcoder2"], metadata={"attention.sliding_window": stored})
    assert read(checkpoint.config) == read(CASES["starcoder2"] | {"sliding_window": window})


def test_a_factor_of_scores_that_is_not_longrope_s_usual_one_is_kept(tmp_path):
    name = "phi4-mini: longrope, part of a head"
    checkpoint = written(tmp_path, CASES[name], metadata={"rope.scaling.attn_factor": 1.25})
    assert checkpoint.config["rope_scaling"]["attention_factor"] == 1.25


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.F16])
def test_packed_rows_come_back_in_order(tmp_path, kind):
    tensors = random_weights(config("granite"), seed=3)
    checkpoint = written(tmp_path, config("granite"), tensors, kind=kind)
    for name in ("model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        error = np.abs(checkpoint.read(name) - tensors[name]).max()
        assert 0 < error < np.abs(tensors[name]).max() / 200


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("olmo2", {"attention.sliding_window": 64}, "OLMo 3"),
        ("granite", {"rope.scaling.finetuned": False}, "'granite.rope.scaling.finetuned' is 'False'"),
        ("granite", {"expert_count": 4}, r"'granite.expert_count' \(value '4'\) is not supported"),
        ("granite", {"attention.value_length": 8}, "values of 8 are not supported"),
        ("gemma3: a period of six layers", {"rope.freq_base": None}, "'gemma3.rope.freq_base' is missing"),
        ("gemma3: a period of six layers", {"attention.sliding_window_pattern": [True]}, "sliding_window_pattern"),
        ("gemma2", {"rope.dimension_count": 8}, "of which 8 rotate are not supported"),
        ("mixtral", {"expert_used_count": None}, "'llama.expert_used_count' is missing"),
        ("qwen3 moe", {"expert_gating_func": 2}, "'qwen3moe.expert_gating_func'"),
        ("qwen3 moe", {"expert_shared_feed_forward_length": 32}, "'qwen3moe.expert_shared_feed_forward_length'"),
        ("ministral 3", {"rope.scaling.type": "none", "rope.scaling.factor": None}, "temperature_scale"),
        ("phi4-mini: longrope, part of a head", {"rope.scaling.type": "yarn"}, "'phi3.rope.scaling.type' is 'yarn'"),
        ("phi3", {"rope.scaling.type": "longrope"}, "'longrope' is not supported.*longrope with factors"),
        ("smollm3", {"attention.causal": False}, "'smollm3.attention.causal'"),
        ("smollm3", {"some.future_key": 1}, "'smollm3.some.future_key'"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_by_name(tmp_path, name, metadata, message):
    with pytest.raises(BadCheckpoint, match=message):
        written(tmp_path, CASES[name], metadata=metadata)


def test_keys_at_neutral_values_are_accepted(tmp_path):
    neutral = {"expert_count": 0, "attention.causal": True, "rope.scaling.finetuned": True, "pooling_type": 1}
    checkpoint = written(tmp_path, config("olmo2", rope_parameters=PLAIN_ROPE), metadata=neutral)
    assert read(checkpoint.config) == read(config("olmo2", rope_parameters=PLAIN_ROPE))
