"""The int4 kernel for GPUs: products against the dequantised weights in interpret mode, and its lowering for CUDA."""

import math
import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.layers.experts import Experts, multiply_blocks
from jaxserve.layers.gpu_tiles import BlockExperts, choose_splits
from jaxserve.layers.int4_gpu import Codes, int4_expert_matmul, int4_matmul, list_unpacking
from jaxserve.layers.scaled_weight import (
    ScaledForm,
    ScaledWeight,
    abstract_scaled,
    dequantize,
    find_scales,
    round_values,
    scaled_matmul,
    scaled_matmuls,
    take_codes,
)
from tests.layers.gpu_kernels import KERNEL, lower_for_cuda

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")


def describe(*shape: int, has_kernel: bool = True) -> ScaledWeight:
    return abstract_scaled("int4", shape, is_table=False, form=ScaledForm(has_kernel=has_kernel))


def draw_weight(rng: np.random.Generator, *shape: int, has_zeros: bool = False) -> ScaledWeight:
    """Return a weight [in, out], or stacked ones, of any codes and zero points, as the kernel wants it."""
    weight = abstract_scaled("int4", shape, is_table=False, form=ScaledForm(has_kernel=True, has_zeros=has_zeros))
    data = rng.integers(0, 2**16, weight.data.shape, np.uint16)
    scale = rng.uniform(0.5, 1, weight.scale.shape).astype(np.float32)
    zero = jnp.asarray(rng.integers(0, 16, scale.shape, np.uint8)) if has_zeros else None
    return replace(weight, data=jnp.asarray(data), scale=jnp.asarray(scale), zero=zero)


def round_weight(value: np.ndarray, *, has_kernel: bool) -> ScaledWeight:
    weight = describe(*value.shape, has_kernel=has_kernel)
    scale = find_scales(value, weight)
    return replace(weight, data=jnp.asarray(round_values(value, scale, weight)), scale=jnp.asarray(scale))


def codes(weight: ScaledWeight) -> Codes:
    return take_codes(weight if weight.data.ndim == 4 else jax.tree.map(lambda part: part[None], weight))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    rows=st.sampled_from([1, 16, 17, 70]),
    width_in=st.sampled_from([64, 192, 640, 1024]),
    widths_out=st.lists(st.sampled_from([8, 128, 200]), min_size=1, max_size=2),
    has_zeros=st.booleans(),
    seed=st.integers(0, 999),
)
def test_products_are_those_of_the_dequantised_weights(rows, width_in, widths_out, has_zeros, seed):
    rng = np.random.default_rng(seed)
    weights = [draw_weight(rng, width_in, width_out, has_zeros=has_zeros) for width_out in widths_out]
    x = jnp.asarray(rng.standard_normal((rows, width_in), np.float32))
    for y, weight in zip(int4_matmul(x, *map(codes, weights), interpret=True), weights, strict=True):
        expected = np.asarray(x, np.float64) @ np.asarray(dequantize(weight), np.float64)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-3)


def test_bfloat16_is_rounded_once_behind_the_sums():
    rng = np.random.default_rng(0)
    weight, x = draw_weight(rng, 1024, 128), jnp.asarray(rng.standard_normal((4, 1024)), jnp.bfloat16)
    assert choose_splits(1, 8, 4, 64) > 1
    (y,) = int4_matmul(x, codes(weight), interpret=True)
    assert y.dtype == jnp.bfloat16
    expected = np.asarray(x, np.float64) @ np.asarray(dequantize(weight), np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.parametrize("num_blocks", [0, 3])
def test_blocks_are_multiplied_with_their_experts(num_blocks):
    """The first one has zeros if there is none."""
    rng = np.random.default_rng(num_blocks)
    weight, x = draw_weight(rng, 3, 256, 40), jnp.asarray(rng.standard_normal((4 * 16, 256), np.float32))
    expert_X = rng.integers(0, 3, 4).astype(np.int32)
    blocks = BlockExperts(jnp.asarray(expert_X), jnp.asarray([num_blocks], jnp.int32))
    (y,) = int4_expert_matmul(x, blocks, codes(weight), rows=16, interpret=True)
    value_EIO = np.asarray(dequantize(weight), np.float64)
    for block, expert in enumerate(expert_X[: max(1, num_blocks)]):
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

    inputs, products = (x_TD, index_TK, is_real_TK), partial(multiply_blocks, interpret=True)
    by_blocks = jax.jit(partial(experts._run_blocks, kernels=kernels, products=products))(*inputs)
    assert np.isfinite(by_blocks).all(), "padding, too"
    expected = jax.jit(partial(experts._loop, kernels=kernels))(*inputs)
    is_real = np.broadcast_to(is_real_TK, index_TK.shape)
    np.testing.assert_allclose(np.asarray(by_blocks)[is_real], np.asarray(expected)[is_real], rtol=1e-4, atol=1e-3)


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


def lowered(rows: int, dtype: str, width_in: int, *widths_out: int) -> str:
    """Return StableHLO for CUDA of products as layers call them."""
    weights = (describe(width_in, width_out) for width_out in widths_out)
    return lower_for_cuda(scaled_matmuls, jax.ShapeDtypeStruct((rows, width_in), dtype), *weights)


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


def run_instructions(lines: list[str], *words: np.ndarray) -> np.ndarray:
    """Return $0 of instructions (PTX ISA) for each word uint32 as $1, and maybe as $2."""
    word, registers = words[0], {f"${place}": word for place, word in enumerate(words, 1)}

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


@pytest.mark.parametrize("zero", [0, 7, 15])
def test_the_instructions_subtract_a_zero_point(zero):
    word_X2 = np.stack([np.arange(2**16), np.arange(2**16)[::-1]], axis=1).astype(np.uint16)
    shift = np.full(word_X2.shape, -128 - zero, ml_dtypes.bfloat16).view(np.uint32)[:, 0]
    number = run_instructions(list_unpacking(1, has_shift=True), word_X2.view(np.uint32)[:, 0], shift)
    number_X2 = number.view(ml_dtypes.bfloat16).reshape(-1, 2).astype(np.float32)
    np.testing.assert_array_equal(number_X2, (word_X2 >> 4 & 15).astype(np.float32) - zero)


def test_zero_points_are_operands_of_the_same_kernel():
    weight = abstract_scaled("int4", (1024, 512), is_table=False, form=ScaledForm(has_kernel=True, has_zeros=True))
    assert weight.zero is not None and weight.zero.shape == (8, 512)
    assert lower_for_cuda(scaled_matmuls, jax.ShapeDtypeStruct((1, 1024), "bfloat16"), weight).count(KERNEL) == 1
