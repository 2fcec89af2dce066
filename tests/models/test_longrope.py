"""LongRoPE: the longest request that is served, max_model_len, chooses the factors of all requests."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxserve.config import EngineConfig
from jaxserve.engine.build import build
from jaxserve.models import registry
from tests.models.cases import LONGROPE
from tests.models.paged import Paged, place
from tests.models.tiny import random_weights, tiny_config
from tests.models.torch_model import TorchModel

CONFIG = tiny_config("phi3") | LONGROPE
TRAINED = LONGROPE["original_max_position_embeddings"]
SHORT, LONG = (tuple(LONGROPE["rope_parameters"][f"{kind}_factor"]) for kind in ("short", "long"))
TOKENS = np.random.default_rng(2).integers(0, 272, 100).tolist()


@pytest.fixture(scope="module")
def weights():
    return random_weights(CONFIG, seed=3)


@pytest.mark.parametrize(("max_model_len", "length"), [(TRAINED, TRAINED), (TRAINED + 1, TRAINED + 1)])
def test_both_lists_of_factors_are_those_of_transformers(weights, max_model_len, length):
    """transformers decides by the length of the sequence, so it is given one on the same side."""
    spec = registry.find_architecture(CONFIG).spec(CONFIG).for_length(max_model_len)
    (logits,) = Paged(spec, place(CONFIG, weights)).feed(TOKENS[:length])
    assert np.abs(logits - TorchModel(CONFIG, weights).logits(TOKENS[:length])).max() < 1e-4


class Checked(Exception):
    """Ends a start before it loads and compiles."""


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({"max_model_len": 16}, SHORT),
        ({"max_model_len": TRAINED}, SHORT),
        ({"max_model_len": TRAINED + 1}, LONG),
        ({}, LONG),
        ({"max_model_len": -1, "num_gpu_blocks_override": 1 + TRAINED // 16}, SHORT),
        ({"max_model_len": -1, "num_gpu_blocks_override": 2 + TRAINED // 16}, LONG),
    ],
)
def test_a_start_chooses_the_factors_by_max_model_len(weights, tmp_path, settings, factors):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(weights, tmp_path / "model.safetensors")
    specs = []

    def stop(model):
        specs.append(model.spec)
        raise Checked

    with pytest.raises(Checked):
        build(EngineConfig(model=str(tmp_path), **settings), on_checked=stop)
    assert {layer.attention.rope.scaling.factors for spec in specs for layer in spec.layers} == {factors}
