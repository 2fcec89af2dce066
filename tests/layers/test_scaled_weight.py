"""Weights with scales: products, lookups and loading against the dequantised values in float32."""

from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from jaxserve.layers.embedding import Embedding, compute_logits
from jaxserve.layers.linear import multiply
from jaxserve.layers.scaled_weight import (
    ScaledForm,
    ScaledWeight,
    abstract_scaled,
    dequantize,
    find_scales,
    round_to_fp8,
    round_values,
    scaled_matmul,
    take_expert,
)

KINDS = ("int8", "fp8", "int4")
# Of the largest value with the same scale: half a step, and what float32 rounds.
ERRORS = {"int8": 0.5 / 127, "fp8": 1 / 16, "int4": 0.5 / 7}
rng = np.random.default_rng(0)


def scaled(value: np.ndarray, kind: str, *, is_table: bool = False, rounds: bool = False) -> ScaledWeight:
    weight = abstract_scaled(kind, value.shape, is_table=is_table, form=ScaledForm(rounds))
    scale = find_scales(value, weight)
    data = round_values(value, scale, weight)
    assert data.shape == weight.data.shape and data.dtype == weight.data.dtype
    assert scale.shape == weight.scale.shape and scale.dtype == weight.scale.dtype
    return replace(weight, data=jnp.asarray(data), scale=jnp.asarray(scale))


@pytest.mark.parametrize("shape", [(256, 48), (96, 40), (3, 128, 24)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_rounded_weight_is_near_the_one_it_was(kind, shape):
    value = rng.standard_normal(shape, np.float32)
    error = np.abs(dequantize(scaled(value, kind)) - value)
    assert error.max() <= ERRORS[kind] * np.abs(value).max() * 1.001
    assert error.max() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros(kind):
    assert not np.any(dequantize(scaled(np.zeros((64, 8), np.float32), kind)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_of_the_dequantised_weight(kind, rows, dtype):
    weight = scaled(rng.standard_normal((256, 48), np.float32), kind)
    x = jnp.asarray(rng.standard_normal((rows, 256), np.float32), dtype)
    expected = np.asarray(x, np.float64) @ np.asarray(dequantize(weight), np.float64)
    np.testing.assert_allclose(scaled_matmul(x, weight), expected, rtol=1e-5, atol=2e-4)
    (y,) = multiply(x, weight)
    assert y.dtype == dtype


def test_a_product_of_rounded_activations_is_that_of_what_they_were_rounded_to():
    weight = scaled(rng.standard_normal((256, 48), np.float32), "fp8", rounds=True)
    x = rng.standard_normal((5, 256), np.float32)
    code, scale = round_to_fp8(jnp.asarray(x))
    rounded = np.asarray(code, np.float64) * np.asarray(scale, np.float64)
    assert np.abs(rounded - x).max() <= np.abs(x).max() / 16
    expected = rounded @ np.asarray(dequantize(weight), np.float64)
    np.testing.assert_allclose(scaled_matmul(jnp.asarray(x), weight), expected, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_gives_its_rows_and_the_logits(kind):
    value = rng.standard_normal((50, 64), np.float32)
    table = scaled(value, kind, is_table=True)
    assert table.kind == ("int8" if kind == "int4" else kind)
    embedding = Embedding(50, 64, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    embedding.table.set_value(table)
    rows = embedding(jnp.asarray([3, 49, 999]))
    assert rows.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rows, np.asarray(dequantize(table))[[3, 49, 49]].astype(ml_dtypes.bfloat16))
    x = jnp.asarray(rng.standard_normal((2, 64), np.float32))
    np.testing.assert_allclose(compute_logits(x, table), x @ dequantize(table).T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_of_a_stack_is_its_matrix(kind):
    value = rng.standard_normal((3, 64, 24), np.float32)
    np.testing.assert_array_equal(
        dequantize(take_expert(scaled(value, kind), jnp.int32(1))), dequantize(scaled(value[1], kind))
    )
