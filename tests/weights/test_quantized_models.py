"""Models of quantised checkpoints compute what transformers computes with the unpacked weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.config import Quantization
from jaxserve.models import registry
from jaxserve.weights.checkpoint import open_checkpoint
from jaxserve.weights.load import check_checkpoint, load_params
from tests.models.paged import Paged
from tests.models.tiny import random_weights, tiny_config
from tests.models.torch_model import TorchModel
from tests.weights import quantized_writer as writer
from tests.weights.quantized_writer import FORMS

TOKENS = np.random.default_rng(1).integers(0, 272, 40).tolist()
LLAMA = tiny_config("llama") | {"num_hidden_layers": 2, "tie_word_embeddings": False}


def load(path: Path, quantization: Quantization = "none"):
    """The leaves of a checkpoint, everything about it checked."""
    checkpoint = open_checkpoint(path)
    architecture = registry.find_architecture(checkpoint.config)
    spec = architecture.spec(checkpoint.config)
    params = architecture.params(spec)
    check_checkpoint(checkpoint, params, ignored=architecture.ignored_tensors(spec))
    return load_params(checkpoint, params, registry.abstract_params(params, jnp.float32, quantization))


@pytest.fixture(scope="module")
def paged() -> Paged:
    """One compiled decoder for all forms."""
    return Paged.of(LLAMA, random_weights(LLAMA, seed=3), backend="cpu")


@pytest.mark.parametrize("name", FORMS)
def test_logits_are_those_of_transformers_with_unpacked_weights(name, paged, tmp_path):
    form = FORMS[name]
    stored, plain = writer.pack(form, random_weights(LLAMA, seed=3))
    path = writer.write_checkpoint(tmp_path, LLAMA | {"quantization_config": form.config}, stored)
    paged.leaves, paged.length_B = load(path), np.zeros(1, np.int32)
    (logits,) = paged.feed(TOKENS)
    assert np.abs(logits - TorchModel(LLAMA, plain).logits(TOKENS)).max() < 1e-4


MOE = {
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 2,
    "mlp_only_layers": [],
}
COMBINATIONS = {
    "fused rows, AWQ": ("phi3", {}, "awq"),
    "fused rows, GPTQ in act-order": ("phi3", {}, "gptq, act-order"),
    "fused rows, fp8 blocks that they cut": ("phi3", {}, "fp8 blocks"),
    "biases beside those of zeros, GPTQ": ("qwen2", {}, "gptq"),
    "biases, AWQ": ("qwen2", {}, "awq"),
    "experts one by one, fp8 blocks": ("qwen3_moe", MOE, "fp8 blocks"),
    "experts one by one, int4 words": ("qwen3_moe", MOE, "int4 words with zero points"),
    "experts one by one, nvfp4": ("qwen3_moe", MOE, "nvfp4, modelopt"),
    "fp8 of whole tensors with a scale for activations": ("ministral3", {}, "fp8 of whole tensors"),
}


def assert_same_leaves(packed: Mapping[Any, Any], plain: Mapping[Any, Any]) -> None:
    for path, leaf in plain.items():
        np.testing.assert_allclose(packed[path], leaf, rtol=1e-6, atol=1e-9, err_msg=str(path))


@pytest.mark.parametrize("name", COMBINATIONS)
def test_layouts_of_families_work_with_packed_tensors(name, tmp_path):
    family, changes, form_name = COMBINATIONS[name]
    config, form = tiny_config(family) | changes, FORMS[form_name]
    stored, plain = writer.pack(form, random_weights(config, seed=3))
    if "activations" in name:
        scales = {key: np.float32(1.5) for key in stored if key.endswith(".weight_scale_inv")}
        stored |= {key.replace("weight_scale_inv", "activation_scale"): np.array(v) for key, v in scales.items()}
    packed = writer.write_checkpoint(tmp_path / "packed", config | {"quantization_config": form.config}, stored)
    assert_same_leaves(load(packed), load(writer.write_checkpoint(tmp_path / "plain", config, plain)))


def test_stacked_experts_in_fp8(tmp_path):
    """As transformers 5 saves them: gate and up fused, one stack of all experts, scales beside it."""
    config = tiny_config("qwen3_moe") | MOE
    plain = random_weights(config, seed=3)
    stored = dict(plain)
    for layer in range(2):
        for name, parts in (("gate_up_proj", ("gate", "up")), ("down_proj", ("down",))):
            prefix = f"model.layers.{layer}.mlp.experts."
            codes, scales = [], []
            for expert in range(3):
                keys = [f"{prefix}{expert}.{part}_proj.weight" for part in parts]
                tensors, values = writer.fp8((16, 24))("m", np.concatenate([stored.pop(key) for key in keys]))
                plain |= dict(zip(keys, np.split(values, len(keys)), strict=True))
                codes.append(tensors["m.weight"])
                scales.append(tensors["m.weight_scale_inv"])
            stored |= {prefix + name: np.stack(codes), f"{prefix}{name}_scale_inv": np.stack(scales)}
    quantization = {"quantization_config": writer.FP8 | {"weight_block_size": [16, 24]}}
    packed = writer.write_checkpoint(tmp_path / "packed", config | quantization, stored)
    assert_same_leaves(load(packed), load(writer.write_checkpoint(tmp_path / "plain", config, plain)))


def test_the_text_part_of_a_multimodal_model(tmp_path):
    """As Ministral 3 is published: fp8 of whole tensors, and other parts that are not packed."""
    text = tiny_config("ministral3")
    form = FORMS["fp8 of whole tensors"]
    stored, plain = writer.pack(form, random_weights(text, seed=3))
    outer = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": text}
    outer["quantization_config"] = form.config | {"modules_to_not_convert": ["model.vision_tower", "lm_head"]}
    packed = writer.write_checkpoint(
        tmp_path / "packed", outer, {f"language_model.{name}": value for name, value in stored.items()}
    )
    assert_same_leaves(load(packed), load(writer.write_checkpoint(tmp_path / "plain", text, plain)))
