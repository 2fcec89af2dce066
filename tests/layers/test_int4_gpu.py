"""The int4 kernel for GPUs: products against the dequantised weights in interpret mode, and its lowering for CUDA."""

import contextlib
import math
import re
from dataclasses import replace
from functools import partial

import jax
import jax.export
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.layers.int4_gpu import (
    BlockExperts,
    Codes,
    choose_rows,
    choose_splits,
    choose_stages,
    int4_expert_matmul,
    int4_matmul,
    list_unpacking,
)
from jaxserve.layers.moe import Experts
from jaxserve.layers.scaled_weight import (
    ScaledForm,
    ScaledWeight,
    abstract_scaled,
    dequantize,
    find_scales,
    round_values,
    scaled_matmul,
    scaled_matmuls,
)

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
KERNEL = "__gpu$xla.gpu.triton"


def describe(*shape: int, has_kernel: bool = True) -> ScaledWeight:
    return abstract_scaled("int4", shape, is_table=False, form=ScaledForm(has_kernel=has_kernel))


def draw_weight(rng: np.random.Generator, *shape: int) -> ScaledWeight:
    """Return a weight [in, out], or stacked ones, of any codes, as the kernel wants it."""
    weight = describe(*shape)
    data = rng.integers(0, 2**16, weight.data.shape, np.uint16)
    scale = rng.uniform(0.5, 1, weight.scale.shape).astype(np.float32)
    return replace(weight, data=jnp.asarray(data), scale=jnp.asarray(scale))


def round_weight(value: np.ndarray, *, has_kernel: bool) -> ScaledWeight:
    weight = describe(*value.shape, has_kernel=has_kernel)
    scale = find_scales(value, weight)
    return replace(weight, data=jnp.asarray(round_values(value, scale, weight)), scale=jnp.asarray(scale))


def codes(weight: ScaledWeight) -> Codes:
    return Codes(weight.data, weight.scale) if weight.data.ndim == 4 else Codes(weight.data[None], weight.scale[None])


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([1, 16, 17, 70]),
    width_in=st.sampled_from([64, 192, 640, 1024]),
    widths_out=st.lists(st.sampled_from([8, 128, 200]), min_size=1, max_size=2),
    seed=st.integers(0, 999),
)
def test_products_are_those_of_the_dequantised_weights(rows, width_in, widths_out, seed):
    rng = np.random.default_rng(seed)
    weights = [draw_weight(rng, width_in, width_out) for width_out in widths_out]
    x = jnp.asarray(rng.standard_normal((rows, width_in), np.float32))
    for y, weight in zip(int4_matmul(x, *map(codes, weights), interpret=True), weights, strict=True):
        expected = np.asarray(x, np.float64) @ np.asarray(dequantize(weight), np.float64)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-3)


def test_bfloat16_is_rounded_once_behind_the_sums():
    rng = np.random.default_rng(0)
    weight, x = draw_weight(rng, 1024, 128), jnp.asarray(rng.standard_normal((4, 1024)), jnp.bfloat16)
    assert choose_splits(1, 8, 4) > 1
    (y,) = int4_matmul(x, codes(weight), interpret=True)
    assert y.dtype == jnp.bfloat16
    expected = np.asarray(x, np.float64) @ np.asarray(dequantize(weight), np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("num_blocks", [0, 3])
def test_blocks_are_multiplied_with_their_experts_and_zeros_follow(num_blocks):
    rng = np.random.default_rng(num_blocks)
    weight, x = draw_weight(rng, 3, 256, 40), jnp.asarray(rng.standard_normal((4 * 16, 256), np.float32))
    expert_X = rng.integers(0, 3, 4).astype(np.int32)
    blocks = BlockExperts(jnp.asarray(expert_X), jnp.asarray([num_blocks], jnp.int32))
    (y,) = int4_expert_matmul(x, blocks, codes(weight), rows=16, interpret=True)
    value_EIO = np.asarray(dequantize(weight), np.float64)
    for block, expert in enumerate(expert_X):
        rows = slice(16 * block, 16 * block + 16)
        expected = np.asarray(x[rows], np.float64) @ value_EIO[expert] if block < num_blocks else np.zeros((16, 40))
        np.testing.assert_allclose(y[rows], expected, rtol=1e-5, atol=1e-3)


def test_experts_by_blocks_are_those_of_the_loop():
    rng, tokens = np.random.default_rng(0), 40
    experts = Experts(5, 64, 128, activation="silu", is_gated=True, bias=True, dtype=jnp.float32, rngs=nnx.Rngs(0))
    kernels = draw_weight(rng, 5, 64, 128), draw_weight(rng, 5, 64, 128), draw_weight(rng, 5, 128, 64)
    for bias in (experts.gate_bias, experts.up_bias):
        assert bias is not None
        bias.set_value(jnp.asarray(rng.standard_normal((5, 128)), jnp.float32))
    x_TD = jnp.asarray(rng.standard_normal((tokens, 64)) / 100, jnp.float32)
    index_TK = jnp.asarray([rng.permutation(5)[:2] for _ in range(tokens)], jnp.int32)
    is_real_TK = jnp.asarray(rng.random((tokens, 1)) < 0.8)

    def multiply(x_SI, blocks, *weights, rows):
        return int4_expert_matmul(x_SI, blocks, *map(codes, weights), rows=rows, interpret=True)

    inputs = x_TD, index_TK, is_real_TK
    by_blocks = jax.jit(partial(experts._run_blocks, kernels=kernels, products=multiply))(*inputs)
    assert np.isfinite(by_blocks).all(), "padding, too"
    expected = jax.jit(partial(experts._loop, kernels=kernels))(*inputs)
    is_real = np.broadcast_to(is_real_TK, index_TK.shape)
    np.testing.assert_allclose(np.asarray(by_blocks)[is_real], np.asarray(expected)[is_real], rtol=1e-4, atol=1e-3)


def test_blocks_of_a_rank_that_has_some_experts_have_as_many_rows_as_those_of_all_ranks():
    rng, tokens, sizes = np.random.default_rng(0), 256, []
    experts = Experts(8, 64, 64, activation="silu", is_gated=False, bias=False, dtype=jnp.float32, rngs=nnx.Rngs(0))
    index_TK = jnp.asarray(rng.integers(0, 8, (tokens, 2)), jnp.int32)

    def run(num_experts):
        def multiply(x_SI, blocks, weight, *, rows):
            sizes.append((rows, x_SI.shape[0]))
            return (x_SI,)

        kernels = (draw_weight(rng, num_experts, 64, 64),) * 2
        is_here_TK = index_TK < num_experts
        experts._run_blocks(jnp.ones((tokens, 64)), index_TK % num_experts, is_here_TK, kernels, multiply)

    run(8)
    run(2)
    assert {rows for rows, _ in sizes} == {choose_rows(tokens * 2 // 8)}
    assert sizes[-1] < sizes[0]


def test_both_layouts_mean_the_same():
    rng = np.random.default_rng(0)
    value = rng.standard_normal((256, 40), np.float32)
    weight, other = (round_weight(value, has_kernel=has_kernel) for has_kernel in (True, False))
    assert weight.shape == other.shape == (256, 40) and weight.group == other.group == 128
    assert weight.data.nbytes == other.data.nbytes == value.size // 2
    np.testing.assert_array_equal(dequantize(weight), dequantize(other))
    x = jnp.asarray(rng.standard_normal((3, 256), np.float32))
    np.testing.assert_allclose(scaled_matmul(x, weight), scaled_matmul(x, other), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("width_in", "kind"), [(128, "int4"), (64, "int4"), (32, "int8"), (48, "int8")])
def test_a_quarter_of_a_group_fills_a_tensor_core_or_the_weight_is_int8(width_in, kind):
    weight = describe(width_in, 8)
    assert (weight.kind, weight.has_kernel) == (kind, kind == "int4")


def hopper():
    """Newer versions of JAX want to know which GPU they lower for."""
    if jax.__version_info__ < (0, 11):
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice("NVIDIA H200", 132, "gpu")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device))


def lowered(rows: int, dtype: str, width_in: int, *widths_out: int) -> str:
    """Return StableHLO for CUDA of products as layers call them."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(KERNEL)]
    export = jax.export.export(jax.jit(scaled_matmuls), platforms=["cuda"], disabled_checks=checks)
    with hopper():
        weights = (describe(width_in, width_out) for width_out in widths_out)
        return export(jax.ShapeDtypeStruct((rows, width_in), dtype), *weights).mlir_module()


@pytest.mark.parametrize(("rows", "dtype"), [(1, "bfloat16"), (300, "bfloat16"), (32, "float32")])
def test_weights_that_share_an_input_are_one_kernel_and_nothing_is_expanded(rows, dtype):
    text = lowered(rows, dtype, 1024, 512, 384, 72)
    assert text.count(KERNEL) == 1
    sizes = {math.prod(map(int, shape[:-1].split("x"))) for shape in re.findall(r"tensor<((?:\d+x)+)b?f\d", text)}
    assert sizes and not sizes & {1024 * width_out for width_out in (512, 384, 72)}


def test_on_other_platforms_xla_multiplies():
    rng = np.random.default_rng(0)
    weight, x = draw_weight(rng, 256, 40), jnp.asarray(rng.standard_normal((3, 256), np.float32))
    np.testing.assert_array_equal(jax.jit(scaled_matmuls)(x, weight)[0], jax.jit(scaled_matmul)(x, weight))


def test_programs_have_about_as_many_rows_as_there_are_and_fill_a_gpu():
    assert [choose_rows(rows) for rows in (1, 16, 17, 100, 4096)] == [16, 16, 32, 64, 128]
    assert [choose_splits(programs, 32, 1) for programs in (1, 32, 48, 224, 4096)] == [16, 8, 5, 1, 1]
    assert [choose_splits(programs, 32, 64) for programs in (32, 48, 224)] == [4, 2, 1], "their sums are many bytes"
    assert choose_splits(1, 1, 1) == 1


def run_instructions(lines: list[str], word: np.ndarray) -> np.ndarray:
    """Return $0 of instructions (PTX ISA) for each word uint32 as $1."""
    registers = {"$1": word}

    def read(operand: str) -> np.ndarray:
        return registers[operand] if operand in registers else np.full_like(word, int(operand, 0))

    for line in lines:
        name, *operands = line.rstrip(";").replace(",", "").split()
        if name == ".reg":
            continue
        target, *(arguments) = operands[0], *map(read, operands[1:])
        registers[target] = INSTRUCTIONS[name](*arguments)
    return registers["$0"]


def lop3(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Bit abc of the table says what three bits become."""
    out = np.zeros_like(a)
    for bits in range(8):
        is_case = [operand if bits >> place & 1 else ~operand for operand, place in ((a, 2), (b, 1), (c, 0))]
        out |= is_case[0] & is_case[1] & is_case[2] & np.where(table >> bits & 1, np.uint32(0xFFFFFFFF), np.uint32(0))
    return out


def fma_bf16x2(*operands: np.ndarray) -> np.ndarray:
    a, b, c = (operand.view(ml_dtypes.bfloat16).astype(np.float32) for operand in operands)
    return (a * b + c).astype(ml_dtypes.bfloat16).view(np.uint32)


INSTRUCTIONS = {"mov.b32": np.copy, "shr.b32": np.right_shift, "lop3.b32": lop3, "fma.rn.bf16x2": fma_bf16x2}


@pytest.mark.parametrize("index", range(4))
def test_the_instructions_make_numbers_of_the_bits_of_two_words(index):
    """What the kernel computes on a GPU, where interpret mode computes otherwise."""
    word_X2 = np.stack([np.arange(2**16), np.arange(2**16)[::-1]], axis=1).astype(np.uint16)
    number = run_instructions(list_unpacking(index), word_X2.view(np.uint32)[:, 0])
    number_X2 = number.view(ml_dtypes.bfloat16).reshape(-1, 2).astype(np.float32)
    np.testing.assert_array_equal(number_X2, (word_X2 >> (4 * index) & 15).astype(np.float32) - 8)


def test_float32_has_fewer_stages_in_shared_memory():
    assert [choose_stages(128, dtype) for dtype in ("bfloat16", "float32")] == [3, 2]
