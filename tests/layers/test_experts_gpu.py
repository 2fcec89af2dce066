"""Products of experts on GPUs: those of ragged_dot, in interpret mode; their tiles; and the lowering for CUDA."""

import math
import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.layers.experts import Experts, group_by_expert, multiply_blocks, ragged_products
from jaxserve.layers.experts_gpu import ExpertWeight, expert_matmul
from jaxserve.layers.gpu_tiles import BlockExperts, Epilogue, choose_rows, choose_splits, choose_stages
from jaxserve.layers.mlp import ACTIVATIONS, ClampedSwiGLU
from jaxserve.layers.scaled_weight import (
    ScaledForm,
    ScaledWeight,
    abstract_scaled,
    dequantize,
    find_scales,
    round_values,
)
from tests.layers.gpu_kernels import KERNEL, lower_for_cuda

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")


def draw(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape, np.float32) / math.sqrt(shape[-2]))


def round_weight(value: jax.Array, kind) -> ScaledWeight:
    weight = abstract_scaled(kind, value.shape, is_table=False, form=ScaledForm())
    scale = find_scales(np.asarray(value), weight)
    return replace(weight, data=jnp.asarray(round_values(np.asarray(value), scale, weight)), scale=jnp.asarray(scale))


def multiply(x_TI, places, *weights: ExpertWeight, rows: int) -> tuple[jax.Array, ...]:
    return jax.jit(partial(expert_matmul, rows=rows, interpret=True))(x_TI, places, *weights)


def group(counts: list[int], rows: int):
    """Return blocks of tokens in any order, of which each expert has so many, and the tokens sorted by expert."""
    expert_T = np.random.default_rng(len(counts)).permutation(np.repeat(np.arange(len(counts)), counts))
    is_real_T1 = jnp.ones((len(expert_T), 1), bool)
    blocks = group_by_expert(jnp.asarray(expert_T[:, None], jnp.int32), len(counts), is_real_T1, rows)
    places = BlockExperts(blocks.expert_X, blocks.num_blocks[None], blocks.token_S)
    return blocks, places, np.argsort(expert_T, kind="stable")


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.sampled_from([0, 0, 1, 3, 16, 17, 40]), min_size=2, max_size=5).filter(any),
    width_in=st.sampled_from([32, 72, 200]),
    widths_out=st.lists(st.sampled_from([8, 128, 200]), min_size=1, max_size=2),
    rows=st.sampled_from([16, 32]),
    seed=st.integers(0, 999),
)
def test_products_are_those_of_ragged_dot(counts, width_in, widths_out, rows, seed):
    rng = np.random.default_rng(seed)
    blocks, places, order_T = group(counts, rows)
    x_TI = draw(rng, sum(counts), width_in)
    weights = [draw(rng, len(counts), width_in, width_out) for width_out in widths_out]
    expected = ragged_products(x_TI[order_T], jnp.asarray(counts, jnp.int32), *weights)
    outputs = multiply(x_TI, places, *map(ExpertWeight, weights), rows=rows)
    for y_SO, expected_TO in zip(outputs, expected, strict=True):
        assert np.isfinite(y_SO[: rows * int(blocks.num_blocks)]).all(), "rows that fill up blocks, too"
        np.testing.assert_allclose(y_SO[blocks.row_A][order_T], expected_TO, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_numbers_of_8_bits_are_multiplied_with_their_scales(kind):
    rng, counts = np.random.default_rng(0), [5, 0, 20]
    blocks, places, order_T = group(counts, 16)
    weight, x_TI = round_weight(draw(rng, 3, 72, 40), kind), draw(rng, sum(counts), 72)
    (expected,) = ragged_products(x_TI[order_T], jnp.asarray(counts, jnp.int32), dequantize(weight))
    (y_SO,) = multiply(x_TI, places, ExpertWeight(weight.data, weight.scale), rows=16)
    np.testing.assert_allclose(y_SO[blocks.row_A][order_T], expected, rtol=1e-4, atol=1e-5)


def test_rows_that_no_block_holds_may_be_nan():
    """Nor do inputs and outputs behind the ends of a weight matter, which tiles cover."""
    rng, rows = np.random.default_rng(0), 16
    index_T1, is_real_T1 = jnp.asarray([[1], [0], [2], [1]], jnp.int32), jnp.asarray([[True], [False], [True], [False]])
    blocks = group_by_expert(index_T1, 3, is_real_T1, rows)
    places = BlockExperts(blocks.expert_X, blocks.num_blocks[None], blocks.token_S)
    x_TI, weight = draw(rng, 4, 40), draw(rng, 3, 40, 24)
    broken = x_TI.at[jnp.asarray([1, 3])].set(jnp.nan), weight.at[0].set(jnp.nan)
    (y_SO,) = multiply(broken[0], places, ExpertWeight(broken[1]), rows=rows)
    assert np.isfinite(y_SO[: rows * 2]).all()
    for token, expert in ((0, 1), (2, 2)):
        np.testing.assert_allclose(y_SO[blocks.row_A[token]], x_TI[token] @ weight[expert], rtol=1e-5, atol=1e-5)


def test_the_first_block_has_zeros_if_there_is_none():
    """Padding reads its first row."""
    rng = np.random.default_rng(0)
    places = BlockExperts(jnp.asarray([1, 0], jnp.int32), jnp.asarray([0], jnp.int32))
    (y_SO,) = multiply(draw(rng, 32, 64), places, ExpertWeight(draw(rng, 2, 64, 16)), rows=16)
    assert not y_SO[:16].any()


@pytest.mark.parametrize(
    ("activation", "hidden"),
    [("silu", 128), ("gelu", 128), ("silu", 64 * 128), (ClampedSwiGLU(alpha=1.7, limit=0.5), 64 * 128)],
    ids=["with splits", "behind the kernel", "in the kernel", "clamped in the kernel"],
)
def test_what_an_epilogue_makes_of_the_sums_is_what_it_makes_of_products(activation, hidden):
    rng = np.random.default_rng(0)
    experts = Experts(4, 256, 8, activation=activation, is_gated=True, bias=False, dtype="float32", rngs=nnx.Rngs(0))
    epilogue = replace(experts._epilogue, biases=(draw(rng, 4, hidden), draw(rng, 4, hidden)))
    _, places, _ = group([3, 20, 1, 1], 16)
    x_TI, weights = draw(rng, 25, 256), [ExpertWeight(draw(rng, 4, 256, hidden)) for _ in range(2)]
    (y_SF,) = expert_matmul(x_TI, places, *weights, rows=16, epilogue=epilogue, interpret=True)
    expected = epilogue.apply(multiply(x_TI, places, *weights, rows=16), jnp.repeat(places.expert_X, 16))
    np.testing.assert_allclose(y_SF, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "int8"])
def test_experts_by_blocks_are_those_of_the_loop(kind):
    rng, tokens = np.random.default_rng(0), 40
    experts = Experts(5, 64, 96, activation="silu", is_gated=True, bias=True, dtype="float32", rngs=nnx.Rngs(0))
    kernels = draw(rng, 5, 64, 96), draw(rng, 5, 64, 96), draw(rng, 5, 96, 64)
    kernels: Any = tuple(kernel if kind == "none" else round_weight(kernel, kind) for kernel in kernels)
    for bias in (experts.gate_bias, experts.up_bias):
        assert bias is not None
        bias.set_value(draw(rng, 5, 96))
    index_TK = jnp.asarray([rng.permutation(5)[:2] for _ in range(tokens)], jnp.int32)
    is_real_TK = jnp.asarray(rng.random((tokens, 1)) < 0.8)
    inputs, products = (draw(rng, tokens, 64), index_TK, is_real_TK), partial(multiply_blocks, interpret=True)
    by_blocks = jax.jit(partial(experts._run_blocks, kernels=kernels, products=products))(*inputs)
    assert np.isfinite(by_blocks).all(), "padding, too"
    expected = jax.jit(partial(experts._loop, kernels=kernels))(*inputs)
    is_real = np.broadcast_to(is_real_TK, index_TK.shape)
    np.testing.assert_allclose(np.asarray(by_blocks)[is_real], np.asarray(expected)[is_real], rtol=1e-4, atol=1e-4)


def test_blocks_of_a_rank_that_has_some_experts_have_as_many_rows_as_those_of_all_ranks():
    tokens, sizes = 256, []
    experts = Experts(8, 64, 64, activation="silu", is_gated=False, bias=False, dtype="float32", rngs=nnx.Rngs(0))
    index_TK = jnp.asarray(np.random.default_rng(0).integers(0, 8, (tokens, 2)), jnp.int32)

    def run(num_experts):
        def multiply(x_TI, blocks, weight, *, rows, epilogue=None):
            sizes.append((rows, len(blocks.expert_X)))
            return (jnp.zeros((len(blocks.expert_X) * rows, 64)),)

        kernels = (jnp.zeros((num_experts, 64, 64)),) * 2
        is_here_TK = index_TK < num_experts
        experts._run_blocks(jnp.ones((tokens, 64)), index_TK % num_experts, is_here_TK, kernels, multiply)

    run(8)
    run(2)
    assert {rows for rows, _ in sizes} == {choose_rows(tokens * 2 // 8)}
    assert sizes[-1] < sizes[0]


def lowered(tokens: int, dtype: str, kind: Any) -> str:
    """Return StableHLO for CUDA of 8 experts, [256, 1024] and [1024, 256], two for each token."""
    shapes = [(8, 256, 1024), (8, 256, 1024), (8, 1024, 256)]
    describe = partial(abstract_scaled, kind, is_table=False, form=ScaledForm(has_kernel=True))
    kernels = [jax.ShapeDtypeStruct(shape, dtype) if kind == "none" else describe(shape) for shape in shapes]

    def run(x_TD, index_TK, *kernels):
        experts = Experts(8, 8, 8, activation="silu", is_gated=True, bias=False, dtype=dtype, rngs=nnx.Rngs(0))
        for param, kernel in zip((experts.gate, experts.up, experts.down), kernels, strict=True):
            assert param is not None
            param.set_value(kernel)
        return experts(x_TD, index_TK, jnp.ones((tokens, 1), bool))

    arguments = jax.ShapeDtypeStruct((tokens, 256), dtype), jax.ShapeDtypeStruct((tokens, 2), "int32")
    return lower_for_cuda(run, *arguments, *kernels)


@pytest.mark.parametrize(
    ("tokens", "dtype", "kind"),
    [
        (1, "bfloat16", "none"),
        (2048, "bfloat16", "none"),
        (40, "float32", "none"),
        (40, "bfloat16", "int8"),
        (40, "bfloat16", "fp8"),
        (40, "bfloat16", "int4"),
    ],
)
def test_experts_are_two_kernels_without_a_loop_and_nothing_is_expanded(tokens, dtype, kind):
    text = lowered(tokens, dtype, kind)
    assert text.count(KERNEL) == 2
    assert "chlo.ragged_dot" not in text and "(ragged_dot_general" not in text
    assert "stablehlo.while" not in text
    sizes = {
        math.prod(map(int, shape[:-1].split("x"))) for shape in re.findall(r"tensor<((?:\d+x)+)b?f(?:16|32)>", text)
    }
    weight = 8 * 256 * 1024
    assert sizes and (kind == "none" or weight not in sizes)
    assert max(sizes) <= max(weight, 4 * tokens * 1024)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, ClampedSwiGLU(alpha=1.7, limit=7.0)], ids=str)
def test_every_activation_can_be_lowered(activation):
    experts = Experts(4, 64, 8, activation=activation, is_gated=True, bias=False, dtype="bfloat16", rngs=nnx.Rngs(0))

    def run(x_TI, expert_X, num, *weights):
        blocks = BlockExperts(expert_X, num)
        return expert_matmul(x_TI, blocks, *map(ExpertWeight, weights), rows=16, epilogue=experts._epilogue)

    shapes = ((64, 64), "bfloat16"), ((4,), "int32"), ((1,), "int32"), *[((4, 64, 8192), "bfloat16")] * 2
    assert lower_for_cuda(run, *(jax.ShapeDtypeStruct(*shape) for shape in shapes)).count(KERNEL) == 1


def test_programs_have_about_as_many_rows_as_there_are_and_fill_a_gpu():
    assert [choose_rows(rows) for rows in (1, 16, 17, 100, 4096)] == [16, 16, 32, 64, 128]
    assert [choose_splits(programs, 32, 1, 64) for programs in (1, 32, 48, 224, 4096)] == [16, 8, 5, 1, 1]
    assert [choose_splits(programs, 32, 64, 64) for programs in (32, 48, 224)] == [4, 2, 1], "their sums are many bytes"
    assert choose_splits(1, 1, 1, 64) == 1


def test_float32_has_fewer_stages_in_shared_memory():
    assert [choose_stages(128, dtype) for dtype in ("bfloat16", "float32")] == [3, 2]


def test_an_epilogue_adds_the_bias_of_each_row_s_expert():
    epilogue = Epilogue(jnp.add, (jnp.asarray([[1.0], [2.0]]), jnp.asarray([[10.0], [20.0]])))
    y_SO = epilogue.apply((jnp.zeros((3, 1)), jnp.zeros((3, 1))), jnp.asarray([1, 0, 1]))
    assert y_SO.tolist() == [[22.0], [11.0], [22.0]]
