"""Mixture of experts: the choice of experts, their blocks of tokens, and the ways to compute them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from jaxserve.layers import quant
from jaxserve.layers.experts import Experts, group_by_expert, native_products, ragged_products
from jaxserve.layers.mlp import ClampedSwiGLU
from jaxserve.layers.moe import MoE, RouterSpec, route
from jaxserve.native import library
from tests.models.plain_decoder import choose_experts
from tests.models.specs import EXPERTS, ROUTERS

SHAPES = [(1, 1, 4), (8, 8, 8), (64, 2, 8), (100, 3, 128)]
"""Tokens, experts a token, experts: fewer and more tokens than a block has rows."""


@settings(max_examples=60, deadline=None, derandomize=True)
@given(router=ROUTERS, seed=st.integers(0, 1000))
def test_experts_are_chosen_and_weighed_as_by_hand(router, seed):
    rng = np.random.default_rng(seed)
    logits_TE, bias_E = rng.standard_normal((5, EXPERTS)) * 2, rng.standard_normal(EXPERTS)
    bias_E = bias_E if router.has_correction_bias else None
    scale_E = rng.standard_normal(EXPERTS) if router.has_expert_scale else None
    arrays = (None if each is None else jnp.asarray(each, jnp.float32) for each in (bias_E, scale_E))
    weight_TK, index_TK = route(jnp.asarray(logits_TE, jnp.float32), router, *arrays)
    assert index_TK.shape == weight_TK.shape == (5, router.top_k) and weight_TK.dtype == jnp.float32
    for logits_E, weight_K, index_K in zip(logits_TE, weight_TK, index_TK, strict=True):
        expected = choose_experts(router, logits_E, bias_E, scale_E)
        assert index_K.tolist() == list(expected), "best first"
        np.testing.assert_allclose(weight_K, list(expected.values()), rtol=1e-5)


def test_a_best_logit_of_zero_is_near_itself():
    """0 / 0 apart, which transformers takes for near."""
    rows = [[-3.0, 0.0, -1.0, -2.0], [2.0, -1.0, 0.0, -2.0], [0.0, -1.0, 0.0, -2.0], [-1.0, -3.0, -2.0, -4.0]]
    router = RouterSpec(top_k=2, score="near_best", renormalize=False, nearness=0.02)
    weight_TK, index_TK = jax.jit(partial(route, router=router))(jnp.asarray(rows))
    expected_TK, expected_index_TK = sparsemixer(torch.tensor(rows), jitter_eps=0.01, training=False)
    assert index_TK.tolist() == expected_index_TK.tolist()
    np.testing.assert_allclose(weight_TK, expected_TK, rtol=1e-6)


def test_routing_is_computed_in_float32():
    logits = jnp.asarray([[1.0, 1.0 + 2**-7, 0.0]], jnp.bfloat16)
    assert route(logits, RouterSpec(top_k=1))[0].dtype == jnp.float32


@st.composite
def choices(draw):
    """Experts of some tokens, no expert twice for a token, some experts far more popular than others; some padding."""
    tokens, top_k, num_experts = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    popularity = draw(st.sampled_from([0.0, 3.0, 100.0])) * rng.standard_normal(num_experts)
    score_TE = popularity + rng.gumbel(size=(tokens, num_experts))
    is_real_T = rng.random(tokens) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return np.argsort(-score_TE, axis=1)[:, :top_k].astype(np.int32), num_experts, is_real_T


@settings(max_examples=40, deadline=None, derandomize=True)
@given(choices(), st.sampled_from([1, 8]))
def test_every_choice_of_a_real_token_has_a_row_in_a_block_of_its_expert(drawn, rows):
    index_TK, num_experts, is_real_T = drawn
    tokens, top_k = index_TK.shape
    blocks = group_by_expert(jnp.asarray(index_TK), num_experts, jnp.asarray(is_real_T)[:, None], rows)
    is_real_A = np.repeat(is_real_T, top_k)
    row_A, expert_A = np.asarray(blocks.row_A)[is_real_A], index_TK.reshape(-1)[is_real_A]
    assert len(set(row_A.tolist())) == len(row_A)
    assert (np.asarray(blocks.token_S)[row_A] == np.repeat(np.arange(tokens), top_k)[is_real_A]).all()
    assert (np.asarray(blocks.expert_X)[row_A // blocks.rows] == expert_A).all()

    count_E = np.bincount(expert_A, minlength=num_experts)
    filled_E = -(-count_E // blocks.rows)
    assert int(blocks.num_blocks) == filled_E.sum() <= len(blocks.expert_X)
    assert np.asarray(blocks.count_E).tolist() == (filled_E * blocks.rows).tolist()
    assert (np.diff(np.asarray(blocks.expert_X)[: filled_E.sum()]) >= 0).all(), "as ragged products need them"
    assert (np.asarray(blocks.row_A)[~is_real_A] == 0).all()


@pytest.fixture(scope="module")
def mixture():
    return MoE(
        16,
        num_experts=5,
        hidden=24,
        router=RouterSpec(top_k=2),
        activation="silu",
        is_gated=True,
        bias=False,
        shared=None,
        has_shared_gate=False,
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )


def draw(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), jnp.float32)


def test_padding_chooses_no_expert_and_gets_zeros(mixture):
    x_TD, is_real_T = draw(9, 16), jnp.arange(9) < 4
    y_TD, _ = mixture(x_TD, is_real_T)
    np.testing.assert_allclose(y_TD[:4], mixture(x_TD[:4], is_real_T[:4])[0], atol=1e-7)
    assert not y_TD[4:].any()


@pytest.fixture(params=["_run_native", "_run_ragged"])
def run_sorted(request):
    """A way to compute experts that is held to the loop; all of them can be computed here."""
    library.load_kernels()
    return lambda experts, *arguments: getattr(experts, request.param)(*arguments)


@pytest.mark.parametrize("num_real", [7, 0])
@pytest.mark.parametrize(
    ("activation", "is_gated"), [("gelu", True), ("gelu", False), (ClampedSwiGLU(alpha=1.7, limit=2.0), True)]
)
def test_experts_of_sorted_tokens_give_what_the_loop_gives(run_sorted, num_real, activation, is_gated):
    has_bias = activation != "gelu"
    how = {"activation": activation, "is_gated": is_gated, "bias": has_bias}
    experts = Experts(5, 16, 24, **how, dtype=jnp.float32, rngs=nnx.Rngs(0))
    if has_bias:
        experts.gate_bias, experts.up_bias = nnx.Param(draw(5, 24)), nnx.Param(2 - draw(5, 24))
    index_TK = jnp.asarray(np.random.default_rng(0).permuted(np.tile(np.arange(5), (9, 1)), axis=1)[:, :2])
    kernels = (draw(5, 16, 24), draw(5, 16, 24), draw(5, 24, 16))[0 if is_gated else 1 :]
    arguments = draw(9, 16), index_TK, jnp.arange(9)[:, None] < num_real, kernels
    y_TKD = run_sorted(experts, *arguments)
    np.testing.assert_allclose(y_TKD[:num_real], experts._loop(*arguments)[:num_real], rtol=1e-4, atol=1e-3)
    assert jnp.isfinite(y_TKD).all(), "padding is multiplied by zero, which NaN survives"


COUNTS = st.lists(st.integers(0, 20), min_size=3, max_size=3)
WIDTHS = st.sampled_from([1, 31, 40, 64, 100])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(COUNTS, WIDTHS, st.sampled_from([1, 15, 32, 257, 300]), st.sampled_from([jnp.float32, jnp.bfloat16]))
def test_native_products_are_ragged_products(counts, width_in, width_out, dtype):
    library.load_kernels()
    x_SI, count_E = draw(sum(counts) + 2, width_in), jnp.asarray(counts, jnp.int32)
    kernels = [draw(3, width_in, width_out).astype(dtype), draw(3, width_in, 5).astype(dtype)]
    expected = ragged_products(x_SI, count_E, *(kernel.astype(jnp.float32) for kernel in kernels))
    for y_SO, expected_SO in zip(native_products(x_SI, count_E, *kernels), expected, strict=True):
        np.testing.assert_allclose(y_SO, expected_SO, rtol=1e-4, atol=1e-4)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(COUNTS, st.sampled_from(["none", "int8", "int4"]))
def test_the_bits_of_a_row_depend_on_that_row_alone(counts, kind):
    """Every expert alone, row by row, gives what all rows give together."""
    library.load_kernels()
    x_SI, kernels = draw(sum(counts), 70), packed_experts(kind, np.asarray(draw(3, 70, 50)))
    together = native_products(x_SI, jnp.asarray(counts, jnp.int32), kernels)[0]
    for row, expert in enumerate(np.repeat(np.arange(3), counts)):
        alone = native_products(x_SI[row : row + 1], (jnp.arange(3) == expert).astype(jnp.int32), kernels)[0]
        assert (np.asarray(alone[0]) == np.asarray(together[row])).all()


def packed_experts(kind, kernel_EIO):
    """Kernels of experts as the engine holds them: an array, or packed weights stacked."""
    if kind == "none":
        return jnp.asarray(kernel_EIO)
    num_experts, width_in, width_out = kernel_EIO.shape
    abstract = quant.abstract_packed(kind, width_in, width_out, num_experts=num_experts, native=True)
    data = np.zeros(abstract.data.shape, np.uint8)
    for expert, kernel_IO in enumerate(kernel_EIO):
        quant.pack_blocks(quant.quantize(np.ascontiguousarray(kernel_IO.T), kind), data[expert])
    return quant.PackedWeight(jnp.asarray(data), kind, width_in, width_out, True)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_products_of_packed_experts_are_those_of_each_of_them_alone(kind):
    library.load_kernels()
    x_SI, stacked = draw(9, 70), packed_experts(kind, np.asarray(draw(3, 70, 50)))
    y_SO = native_products(x_SI, jnp.asarray([5, 0, 3], jnp.int32), stacked)[0]
    first, last = (quant.PackedWeight(stacked.data[expert], kind, 70, 50, True) for expert in (0, 2))
    assert (y_SO[:5] == quant.packed_matmul(x_SI[:5], first)[0]).all()
    assert (y_SO[5:8] == quant.packed_matmul(x_SI[5:8], last)[0]).all() and not y_SO[8:].any()
