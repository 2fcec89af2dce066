"""The product of int4 weights on NVIDIA GPUs: a kernel that unpacks them in registers, tile by tile (gpu_tiles.py).

XLA stores the products of all groups before it scales and sums them: from 32 rows on more bytes than bfloat16 weights
have (jaxlib 0.10.2, compiled for an H200). Here a program has some outputs, some rows of activations and some groups of
inputs. It reads the codes of a group once, 128 outputs of which are 8 KiB side by side, turns them into 16-bit numbers
on their way to the tensor cores, and multiplies the group's product with its scales in float32: the codes are exact, so
that only the order of sums differs from the reference, `scaled_weight.dequantize`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxserve.layers.gpu_tiles import (
    OUTPUTS,
    BlockExperts,
    Tile,
    Tiling,
    choose_precision,
    choose_rows,
    choose_splits,
    count_tiles,
    indices,
    load,
    multiply_tiles,
)


class Codes(NamedTuple):
    """The refs, or arrays, of a weight or of stacked experts.

    data_EGOQ    uint16 [experts, groups, out, a quarter of a group]: the lowest four bits are a code of the group's
                 first quarter, the highest one of its last
    scale_EGO    float32 [experts, groups, out]
    zero_EGO     uint8 [experts, groups, out]: the code that means 0; None: 8 does
    """

    data_EGOQ: Any
    scale_EGO: Any
    zero_EGO: Any = None


def int4_matmul(x_TI: Array, *weights: Codes, interpret: bool = False) -> tuple[Array, ...]:
    """Return x @ weight, [T, out] in x's type, for each of the weights, which have one expert."""
    return _multiply(x_TI, weights, None, choose_rows(len(x_TI)), interpret)


def int4_expert_matmul(
    x_TI: Array, blocks: BlockExperts, *weights: Codes, rows: int, interpret: bool = False
) -> tuple[Array, ...]:
    """Return the products [S, out] of blocks of `rows` rows with the weights of their experts; see BlockExperts."""
    return _multiply(x_TI, weights, blocks, rows, interpret)


def _multiply(
    x_TI: Array, weights: Sequence[Codes], blocks: BlockExperts | None, rows: int, interpret: bool
) -> tuple[Array, ...]:
    num_rows = len(x_TI if blocks is None or blocks.row_S is None else blocks.row_S)
    _, num_groups, _, quarter = weights[0].data_EGOQ.shape
    widths_out = [weight.data_EGOQ.shape[2] for weight in weights]
    num_programs = -(-num_rows // rows) * sum(map(count_tiles, widths_out))
    num_splits = choose_splits(num_programs, num_groups, min(num_rows, rows), 2 * quarter)
    tiling = Tiling(rows, num_rows, num_groups, num_splits, interpret)
    return multiply_tiles(x_TI, weights, widths_out, blocks, tiling, _add_groups, "int4_matmul")


def _add_groups(x_ref: Any, weight: Codes, tile: Tile, tiling: Tiling) -> Array:
    """Return the sums over a tile's groups of inputs; see AddUp."""
    quarter = weight.data_EGOQ.shape[-1]
    input_Q = indices(quarter)
    mask_MQ = None if tile.mask_M is None else jnp.broadcast_to(tile.mask_M[:, None], (tiling.rows, quarter))
    mask_NQ = None if tile.mask_N is None else jnp.broadcast_to(tile.mask_N[:, None], (OUTPUTS, quarter))

    def load_scale(group: Array) -> tuple[Array, ...]:
        """Return the scales, and what is added to 128 + code for a number where groups have zero points."""
        place = tile.expert, jnp.minimum(group, tiling.num_turns - 1), tile.output_N
        scale_N = load(weight.scale_EGO, place, tile.mask_N)
        if weight.zero_EGO is None:
            return (scale_N,)
        zero_N = load(weight.zero_EGO, place, tile.mask_N).astype(jnp.float32)
        return scale_N, (-128 - zero_N).astype(x_ref.dtype)

    def add_group(group: Array, state: tuple[Array, tuple[Array, ...]]) -> tuple[Array, tuple[Array, ...]]:
        sum_NM, (scale_N, *shift_N) = state
        next_scale_N = load_scale(group + 1)  # a group ahead: Triton fetches early what products read, and this is not
        place_NQ = (tile.expert, group, tile.output_N[:, None], input_Q[None, :])
        word_NQ = load(weight.data_EGOQ, place_NQ, mask_NQ)
        product_NM = jnp.zeros_like(sum_NM)
        for index in range(4):
            column_Q = group * (4 * quarter) + index * quarter + input_Q
            x_MQ = load(x_ref, (tile.row_M[:, None], column_Q[None, :]), mask_MQ)
            number_NQ = _unpack(word_NQ, index, shift_N, x_ref.dtype, tiling.interpret)
            product_NM += _dot(number_NQ, x_MQ)
        return _multiply_add(product_NM, scale_N, sum_NM, tiling.interpret), next_scale_N

    start = jnp.zeros((OUTPUTS, tiling.rows), jnp.float32), load_scale(tile.begin)
    return lax.fori_loop(tile.begin, tile.end, add_group, start)[0]


def _unpack(word_NQ: Array, index: int, shift_N: Sequence[Array], dtype: Any, interpret: bool) -> Array:
    """Return the numbers in four bits of each word: those of one quarter of a group. shift_N: none, or of outputs."""
    shifts = [jnp.broadcast_to(each[:, None], word_NQ.shape) for each in shift_N]
    if interpret or dtype != jnp.bfloat16:
        code_NQ = (word_NQ >> (4 * index) & 15).astype(jnp.int32).astype(dtype)
        return code_NQ + (shifts[0] + 128 if shifts else -8)
    from jax.experimental.pallas import triton as plt

    [number_NQ] = plt.elementwise_inline_asm(
        "{ " + " ".join(list_unpacking(index, has_shift=bool(shifts))) + " }",
        args=[word_NQ, *shifts],
        constraints="=r,r,r" if shifts else "=r,r",
        pack=2,
        result_shape_dtypes=[jax.ShapeDtypeStruct(word_NQ.shape, jnp.bfloat16)],
    )
    return number_NQ


def list_unpacking(index: int, *, has_shift: bool = False) -> list[str]:
    """Return the instructions that make two numbers in bfloat16, $0, of four bits of each of two words, $1 (PTX).

    In bfloat16, 0x4300 + n is 128 + n, so that two numbers are three instructions: they are moved down, masked and
    completed, and 136 is subtracted; or $2 is added, two numbers.
    """
    return [
        ".reg .b32 bits, one, least;",
        "mov.b32 one, 0x3f803f80;",
        "mov.b32 least, 0xc308c308;",
        f"shr.b32 bits, $1, {4 * index};" if index else "mov.b32 bits, $1;",
        "lop3.b32 bits, bits, 0x000f000f, 0x43004300, 0xea;",  # bits & 0x000f000f | 0x43004300
        f"fma.rn.bf16x2 $0, bits, one, {'$2' if has_shift else 'least'};",
    ]


def _multiply_add(product_NM: Array, scale_N: Array, sum_NM: Array, interpret: bool) -> Array:
    """Return product * scale + sum. Compilers would take two instructions, which are many beside those of few rows."""
    scale_NM = jnp.broadcast_to(scale_N[:, None], sum_NM.shape)
    if interpret:
        return product_NM * scale_NM + sum_NM
    from jax.experimental.pallas import triton as plt

    [sum_NM] = plt.elementwise_inline_asm(
        "fma.rn.f32 $0, $1, $2, $3;",
        args=[product_NM, scale_NM, sum_NM],
        constraints="=f,f,f,f",
        pack=1,
        result_shape_dtypes=[jax.ShapeDtypeStruct(sum_NM.shape, jnp.float32)],
    )
    return sum_NM


def _dot(weight_NH: Array, x_MH: Array) -> Array:
    """Return weight @ x.T, [N, M] float32."""
    return lax.dot_general(
        weight_NH,
        x_MH,
        (((1,), (1,)), ((), ())),
        precision=choose_precision(weight_NH.dtype),
        preferred_element_type=jnp.float32,
    )
