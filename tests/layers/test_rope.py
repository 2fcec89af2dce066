"""Rotary positions: frequencies as transformers computes them, and what a rotation must keep."""

import jax.numpy as jnp
import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from jaxserve.layers.rope import (
    LinearScaling,
    Llama3Scaling,
    RopeSpec,
    YarnScaling,
    apply_rope,
    compute_cos_sin,
    inverse_frequencies,
)

HEAD_DIM = 64


def theirs(head_dim: int = HEAD_DIM, **parameters) -> tuple[np.ndarray, float]:
    """transformers' frequencies and magnitude for the same numbers."""
    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, max_position_embeddings=8192, rope_parameters=parameters
    )
    found, magnitude = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
    return found.numpy(), magnitude


def test_plain_frequencies_fall_from_one_by_equal_ratios():
    found = inverse_frequencies(RopeSpec(10_000.0), HEAD_DIM)
    assert found[0] == 1 and found.dtype == np.float32
    np.testing.assert_allclose(found[1:] / found[:-1], 10_000.0 ** (-2 / HEAD_DIM), rtol=1e-6)


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_llama3_frequencies_are_those_of_transformers(theta, head_dim):
    expected, _ = theirs(
        head_dim,
        rope_type="llama3",
        rope_theta=theta,
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=8192,
    )
    np.testing.assert_allclose(
        inverse_frequencies(RopeSpec(theta, Llama3Scaling(8.0, 1.0, 4.0, 8192)), head_dim), expected, rtol=5e-7
    )


def test_linear_frequencies_are_those_of_transformers():
    expected, _ = theirs(rope_type="linear", rope_theta=10_000.0, factor=4.0)
    np.testing.assert_allclose(
        inverse_frequencies(RopeSpec(10_000.0, LinearScaling(4.0)), HEAD_DIM), expected, rtol=5e-7
    )


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize(("fast", "slow"), [(32.0, 1.0), (16.0, 2.0)])
def test_yarn_frequencies_are_those_of_transformers(truncate, fast, slow):
    expected, magnitude = theirs(
        rope_type="yarn",
        rope_theta=10_000.0,
        factor=4.0,
        original_max_position_embeddings=2048,
        beta_fast=fast,
        beta_slow=slow,
        truncate=truncate,
    )
    scaling = YarnScaling(4.0, 2048, fast, slow, magnitude, truncate)
    np.testing.assert_allclose(inverse_frequencies(RopeSpec(10_000.0, scaling), HEAD_DIM), expected, rtol=5e-7)


def test_yarn_multiplies_cosine_and_sine_by_its_magnitude():
    position = jnp.arange(5)
    plain = compute_cos_sin(position, RopeSpec(1e4, YarnScaling(2.0, 64, 32.0, 1.0, 1.0, True)), 8)
    louder = compute_cos_sin(position, RopeSpec(1e4, YarnScaling(2.0, 64, 32.0, 1.0, 1.5, True)), 8)
    np.testing.assert_allclose(louder, 1.5 * np.asarray(plain), rtol=1e-6)


def test_position_zero_turns_nothing():
    x = np.random.default_rng(0).normal(size=(1, 2, 8)).astype(np.float32)
    assert (apply_rope(jnp.asarray(x), *compute_cos_sin(jnp.zeros(1, jnp.int32), RopeSpec(1e4), 8)) == x).all()


def test_only_the_distance_between_query_and_key_matters():
    query, key = np.random.default_rng(0).normal(size=(2, 1, 1, 8)).astype(np.float32)

    def score(query_position: int, key_position: int) -> float:
        at = [compute_cos_sin(jnp.array([p]), RopeSpec(1e4), 8) for p in (query_position, key_position)]
        return float((apply_rope(jnp.asarray(query), *at[0]) * apply_rope(jnp.asarray(key), *at[1])).sum())

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-2)


def test_rotation_is_float32_inside_whatever_comes_in():
    x = jnp.ones((3, 1, 8), jnp.bfloat16)
    rotation = compute_cos_sin(jnp.array([0, 1, 1000]), RopeSpec(1e4), 8)
    assert apply_rope(x, *rotation).dtype == jnp.bfloat16
    assert (apply_rope(x, *rotation) == apply_rope(x.astype(jnp.float32), *rotation).astype(jnp.bfloat16)).all()
