"""Loading keeps the weights once in memory and little beside: what Python and numpy allocate is counted in bytes."""

import tracemalloc
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxserve.config import EngineConfig
from jaxserve.conversion import convert_model
from jaxserve.engine.opened_model import open_model
from jaxserve.weights.load import load_params
from jaxserve.weights.weight_memory import WeightMemory
from tests.models.tiny import random_weights, tiny_config
from tests.weights import tiny

NUM_LAYERS, MAX_RATIO, OBJECT_BYTES = 12, 1.15, 1 << 20
CONFIG = tiny_config("llama") | {
    **{"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": NUM_LAYERS, "head_dim": 64},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1024},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return tiny.write_directory(tmp_path_factory.mktemp("memory") / "model", random_weights(CONFIG, seed=0), CONFIG)


@pytest.fixture(scope="module")
def converted(source) -> dict[str, Path]:
    kinds: tuple[Any, ...] = ("none", "int8")
    for kind in kinds:
        convert_model(str(source), source.parent / kind, quantization=kind)
    return {"safetensors": source, "orbax": source.parent / "none", "packed orbax": source.parent / "int8"}


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ("safetensors", {}),
        ("safetensors", {"dtype": "bfloat16"}),
        ("safetensors", {"quantization": "int8"}),
        ("orbax", {}),
        ("packed orbax", {}),
    ],
    ids=str,
)
def test_the_most_memory_is_little_more_than_the_weights(converted, form, settings, monkeypatch):
    model = open_model(EngineConfig(model=str(converted[form]), **settings), None, None, None)
    kept_bytes: list[int] = []  # of weights in huge pages, which are Linux's and not numpy's
    keep = WeightMemory.keep
    monkeypatch.setattr(
        WeightMemory, "keep", lambda memory, values: kept_bytes.append(values.nbytes) or keep(memory, values)
    )
    tracemalloc.start()
    try:
        weights = load_params(model.checkpoint, model.leaves, model.shapes, num_threads=2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    weight_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    assert weight_bytes > 10 * OBJECT_BYTES or model.weight_form.quantization == "int8"
    assert weight_bytes * 0.8 < peak_bytes + sum(kept_bytes) < weight_bytes * MAX_RATIO + OBJECT_BYTES


def test_reading_a_large_part_of_a_weight_allocates_that_part(converted):
    model = open_model(EngineConfig(model=str(converted["orbax"])), None, None, None)
    name = "embed.table"
    tracemalloc.start()
    try:
        values = model.checkpoint.read(name, (slice(0, 512), slice(0, 256)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert values.nbytes <= peak_bytes < values.nbytes * MAX_RATIO
