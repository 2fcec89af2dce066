"""The decoder as a tree of leaves: shapes before memory, types, and how it is taken apart and put together."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxserve.models import registry
from jaxserve.models.decoder import Decoder, flatten_params
from tests.models.cases import CASES
from tests.models.paged import Paged
from tests.models.tiny import random_weights, tiny_config


def read_part(tensors, name, part):
    return tensors[name][part]


@pytest.mark.parametrize("config", CASES.values(), ids=CASES.keys())
def test_every_leaf_has_an_origin_of_the_right_shape(config):
    architecture = registry.find_architecture(config)
    spec = architecture.spec(config)
    _, shapes = registry.abstract_decoder(spec, jnp.float32)
    leaves = architecture.params(spec)
    assert leaves.keys() == shapes.keys()
    for path, leaf in leaves.items():
        assert leaf.shape == shapes[path].shape, path
        assert len(leaf.axes) == len(leaf.shape), path
        for origin in leaf.origins:
            stored = {source.name: np.empty(source.shape, np.float32) for source in origin.sources}
            assert origin.read(partial(read_part, stored)).shape == leaf.shape, path


def test_origins_are_distinct_and_none_is_ignored():
    llama = registry.find_architecture(tiny_config("llama"))
    spec = llama.spec(tiny_config("llama"))
    names = [leaf.origins[0].sources[0].name for leaf in llama.params(spec).values()]
    assert len(set(names)) == len(names)
    assert not llama.ignored_tensors(spec) & set(names)


def test_kernels_are_laid_out_in_out_without_a_copy():
    llama = registry.find_architecture(tiny_config("llama"))
    leaf = llama.params(llama.spec(tiny_config("llama")))["layers", 0, "mlp", "down", "kernel"]
    (source,) = leaf.origins[0].sources
    stored = np.arange(64 * 96, dtype=np.float32).reshape(source.shape)
    read = source.read(partial(read_part, {source.name: stored}))
    assert read.shape == leaf.shape == (96, 64)
    assert np.shares_memory(read, stored)


def test_a_tied_head_may_be_stored_and_is_not_read():
    llama = registry.find_architecture(tiny_config("llama"))
    tied = llama.spec(tiny_config("llama"))
    untied = llama.spec(tiny_config("llama") | {"tie_word_embeddings": False})
    assert "lm_head.weight" in llama.ignored_tensors(tied)
    assert "lm_head.weight" not in llama.ignored_tensors(untied)


def test_abstract_of_a_large_model_allocates_nothing():
    config = tiny_config("llama") | {"hidden_size": 16384, "vocab_size": 1 << 20, "intermediate_size": 65536}
    _, shapes = registry.abstract_decoder(registry.find_architecture(config).spec(config), jnp.bfloat16)
    assert sum(leaf.size for leaf in shapes.values()) > 10**10
    assert {leaf.dtype for leaf in shapes.values()} == {jnp.dtype(jnp.bfloat16)}


def test_equal_specs_give_equal_structures():
    config = tiny_config("qwen3")
    one, other = (
        registry.abstract_decoder(registry.find_architecture(config).spec(config), jnp.float32)[0] for _ in range(2)
    )
    assert one == other
    assert hash(one) == hash(other)


def test_assembling_what_was_flattened_gives_the_same_model():
    spec = registry.find_architecture(tiny_config("llama")).spec(tiny_config("llama"))
    model = Decoder(spec, dtype=jnp.float32, rngs=nnx.Rngs(0))
    graphdef, shapes = registry.abstract_decoder(spec, jnp.float32)
    weights = flatten_params(model)
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in weights.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in shapes.items()
    }
    again = flatten_params(registry.merge_params(graphdef, weights))
    assert all((again[path] == weights[path]).all() for path in weights)


def test_bfloat16_stays_near_float32_and_gives_float32_logits():
    config = tiny_config("llama")
    weights = random_weights(config)
    tokens = list(range(40))
    (wide,) = Paged.of(config, weights).feed(tokens)
    (narrow,) = Paged.of(config, weights, dtype=jnp.bfloat16).feed(tokens)
    assert narrow.dtype == np.float32
    assert np.abs(narrow - wide).mean() < 0.05 * wide.std()


def test_one_entry_of_pages_a_layer_is_demanded():
    config = tiny_config("llama")
    paged = Paged.of(config, random_weights(config))
    paged.pages = replace(paged.pages, places=paged.pages.places[:-1])
    with pytest.raises(AssertionError):
        paged.feed([1, 2, 3])
