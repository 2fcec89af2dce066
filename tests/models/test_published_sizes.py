"""Published models: parameters, tensor names and shapes are those of transformers, without any weights."""

import re
from math import prod
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from jaxserve.models import registry
from tests.models.published import PUBLISHED

IDS = list(PUBLISHED)


def torch_tensors(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of transformers' tensors by their names in checkpoints; a tied head has none."""
    hf_config = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
    state = dict(revert_weight_conversion(model, model.state_dict()))
    if config["model_type"] == "kimi_linear":  # the name of the experts is given back to the dense layer, too
        dense = re.compile(r"block_sparse_moe(\.(?:gate|up|down)_proj)")
        state = {dense.sub(r"mlp\1", name): value for name, value in state.items()}
    if hf_config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("name", IDS)
def test_a_published_model_has_the_tensors_of_transformers(name):
    config, num_params = PUBLISHED[name]
    architecture = registry.find_architecture(config)
    params = architecture.params(architecture.spec(config))
    sources = {source.name: source.shape for param in params.values() for source in param.origins[0].sources}
    if config["model_type"] != "internlm2":  # transformers has no class for it
        assert sources == torch_tensors(config)
    assert sum(prod(param.shape) for param in params.values()) == num_params


def test_every_family_has_a_published_model():
    assert {config["model_type"] for config, _ in PUBLISHED.values()} == set(registry.MODEL_TYPES)
