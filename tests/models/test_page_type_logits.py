"""Logits over pages of other types, against those over float32 pages: how much a type of pages costs."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.paged import Paged
from tests.models.tiny import random_weights, tiny_config

TOKENS = [int(n) for n in np.random.default_rng(2).integers(0, 256, 96)]
# The largest error of a logit, in standard deviations of the logits.
BOUNDS = {"float16": 0.01, "bfloat16": 0.05, "int8": 0.1, "float8_e4m3fn": 0.5, "float8_e5m2": 1.0}


@pytest.fixture(scope="module")
def model():
    config = tiny_config("llama")
    return config, random_weights(config, seed=3)


@pytest.fixture(scope="module")
def expected(model):
    return Paged.of(*model).feed(TOKENS)[0]


@pytest.mark.parametrize("page_type", BOUNDS)
def test_logits_are_near_those_over_float32_pages(model, expected, page_type):
    (logits,) = Paged.of(*model, page_type=jnp.dtype(page_type)).feed(TOKENS)
    assert 0 < np.abs(logits - expected).max() < BOUNDS[page_type] * expected.std()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_prompt_in_chunks_has_the_logits_of_the_whole(model, backend):
    """But for a number between two codes, which the rounding of a product of another shape moves to the other one."""
    whole, chunks = (Paged.of(*model, page_type=jnp.int8, backend=backend) for _ in range(2))
    (expected,) = whole.feed(TOKENS)
    parts = [chunks.feed(TOKENS[at : at + 32])[0] for at in range(0, len(TOKENS), 32)]
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=0.02 * expected.std())
