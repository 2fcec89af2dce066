"""Norm, linear, embedding and feed-forward, each against a line of numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxserve.layers.embedding import Embedding, LMHead
from jaxserve.layers.linear import Linear, matmul_precision
from jaxserve.layers.mlp import MLP
from jaxserve.layers.norms import Norm, NormSpec


@pytest.fixture
def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_rms_norm_is_its_formula():
    norm, x = Norm(16, NormSpec(1e-5), dtype=jnp.float32), draw(5, 16)
    norm.scale[...] = jnp.asarray(draw(16))
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * draw(16)
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5)


def test_rms_norm_plus_one_multiplies_with_one_more_than_its_scale():
    norm, x = Norm(16, NormSpec(1e-5, "rms_plus_one"), dtype=jnp.float32), draw(5, 16)
    norm.scale[...] = jnp.asarray(draw(16))
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * (1 + draw(16))
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-5)


@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_norm_is_its_formula(has_bias):
    norm, x = Norm(16, NormSpec(1e-5, "layer", has_bias), dtype=jnp.float32), draw(5, 16)
    norm.scale[...] = jnp.asarray(draw(16))
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * draw(16)
    if has_bias:
        norm.bias[...] = jnp.asarray(draw(16)[::-1])
        expected = expected + draw(16)[::-1]
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-6)


def test_a_norm_without_scale_has_no_leaf():
    norm = Norm(16, NormSpec(1e-5, "layer", has_scale=False), dtype=jnp.float32)
    assert not jax.tree.leaves(nnx.state(norm))


def test_rms_norm_of_bfloat16_is_summed_in_float32():
    norm = Norm(4096, NormSpec(1e-5), dtype=jnp.bfloat16)
    x = jnp.asarray(draw(4096)[None], jnp.bfloat16)
    wide = Norm(4096, NormSpec(1e-5), dtype=jnp.float32)(x.astype(jnp.float32))
    assert norm(x).dtype == jnp.bfloat16
    assert (norm(x) == wide.astype(jnp.bfloat16)).all()


def test_linear_is_a_product_with_an_in_out_kernel_and_a_bias(rngs):
    layer, x = Linear(6, 3, bias=True, dtype=jnp.float32, rngs=rngs), draw(4, 6)
    layer.bias[...] = jnp.asarray(draw(3))
    assert layer.kernel.shape == (6, 3)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ np.asarray(layer.kernel[...]) + draw(3), rtol=1e-5)


def test_linear_without_bias_has_one_leaf(rngs):
    assert len(jax.tree.leaves(nnx.state(Linear(6, 3, bias=False, dtype=jnp.float32, rngs=rngs)))) == 1


def test_float32_products_ask_for_float32_and_narrow_ones_do_not():
    assert matmul_precision(jnp.float32) == jax.lax.Precision.HIGHEST
    assert matmul_precision(jnp.bfloat16) is None


def test_embedding_looks_rows_up(rngs):
    embed = Embedding(10, 4, dtype=jnp.float32, rngs=rngs)
    assert (embed(jnp.array([7, 0, 7])) == embed.table[...][jnp.array([7, 0, 7])]).all()


@pytest.mark.parametrize("kind", [Embedding, LMHead])
def test_logits_are_float32_sums_even_of_bfloat16(rngs, kind):
    layer, hidden = kind(10, 512, dtype=jnp.bfloat16, rngs=rngs), jnp.asarray(draw(3, 512), jnp.bfloat16)
    logits = layer.compute_logits(hidden)
    assert logits.dtype == jnp.float32 and logits.shape == (3, 10)
    expected = np.asarray(hidden, np.float64) @ np.asarray(layer.table[...], np.float64).T
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("platform", "dtype", "rows"), [("cuda", "bfloat16", 8), ("cuda", "float32", 1), ("cpu", "bfloat16", 1)]
)
def test_a_gpu_multiplies_the_table_with_eight_rows_at_least(rngs, platform, dtype, rows):
    """One row alone may convert the whole table to float32."""
    layer = LMHead(10, 512, dtype=dtype, rngs=rngs)
    hidden = jax.ShapeDtypeStruct((1, 512), dtype)
    lowered = jax.jit(layer.compute_logits).trace(hidden).lower(lowering_platforms=(platform,))
    [product] = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert f"tensor<{rows}x10xf32>" in product


def test_gated_mlp_is_its_formula(rngs):
    mlp, x = MLP(6, 9, activation="silu", is_gated=True, bias=False, dtype=jnp.float32, rngs=rngs), draw(4, 6)
    gate, up, down = (np.asarray(layer.kernel[...]) for layer in (mlp.gate, mlp.up, mlp.down))
    gated = x @ gate
    expected = (gated / (1 + np.exp(-gated)) * (x @ up)) @ down
    np.testing.assert_allclose(mlp(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-8)


def test_an_mlp_without_gate_is_its_formula(rngs):
    mlp = MLP(6, 9, activation="relu2", is_gated=False, bias=True, dtype=jnp.float32, rngs=rngs)
    mlp.up.bias[...] = jnp.asarray(draw(9))
    x, up, down = draw(4, 6), np.asarray(mlp.up.kernel[...]), np.asarray(mlp.down.kernel[...])
    expected = np.square(np.maximum(x @ up + draw(9), 0)) @ down
    np.testing.assert_allclose(mlp(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-8)
