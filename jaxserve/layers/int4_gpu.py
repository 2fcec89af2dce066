"""The product of int4 weights on NVIDIA GPUs: a Pallas kernel, lowered through Triton, that unpacks them in registers.

XLA stores the products of all groups before it scales and sums them: from 32 rows on more bytes than bfloat16 weights
have (jaxlib 0.10.2, compiled for an H200). Here a program has some outputs, some rows of activations and some groups of
inputs. It reads the codes of a group once, 128 outputs of which are 8 KiB side by side, turns them into 16-bit numbers
on their way to the tensor cores, and multiplies the group's product with its scales in float32: the codes are exact, so
that only the order of sums differs from the reference, `scaled_weight.dequantize`.

Outputs take the place of rows in a tensor core's instruction, and rows that of columns, which may be 16. Where there
are too few outputs for all multiprocessors the groups are cut into splits, whose sums are added behind the kernel in
their order. Weights that share an input are one call. So are those of experts, whose rows come in blocks of one expert.

Everything that Pallas might leave to a default is passed; see attention/gpu. It counts the places of 16-bit numbers
right in arrays of any size, where those of 8 bits overflow between 2 and 4 GiB.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

OUTPUTS = 128  # of a program
MIN_ROWS, MAX_ROWS = 16, 128  # of a program: a tensor core has 16 at least, as Triton uses it
PROGRAMS = 132  # up to so many if the groups are cut: one for each multiprocessor of an H200
MIN_GROUPS = 2  # of a split
WARPS = {16: 4, 32: 4, 64: 4, 128: 8}  # by rows of a program
STAGES = {16: 4, 32: 4, 64: 4, 128: 3}
FLOAT32_STAGES = 2


class Codes(NamedTuple):
    """The refs, or arrays, of a weight or of stacked experts.

    data_EGOQ    uint16 [experts, groups, out, a quarter of a group]: the lowest four bits are a number of the group's
                 first quarter plus 8, the highest one of its last
    scale_EGO    float32 [experts, groups, out]
    """

    data_EGOQ: Any
    scale_EGO: Any


class BlockExperts(NamedTuple):
    """The experts of blocks of rows: int32 [blocks] and [1]. Blocks behind the first `num` give zeros."""

    expert_X: Any
    num: Any


@dataclass(frozen=True)
class Layout:
    """Static facts of a call.

    rows         of activations of a program
    num_splits   of the groups
    num_groups   of inputs
    num_rows     of activations
    """

    rows: int
    num_splits: int
    num_groups: int
    num_rows: int
    interpret: bool


def int4_matmul(x_TI: Array, *weights: Codes, interpret: bool = False) -> tuple[Array, ...]:
    """Return x @ weight, [T, out] in x's type, for each of the weights, which have one expert."""
    rows = choose_rows(len(x_TI))
    return _multiply(x_TI, weights, None, rows, interpret)


def int4_expert_matmul(
    x_SI: Array, blocks: BlockExperts, *weights: Codes, rows: int, interpret: bool = False
) -> tuple[Array, ...]:
    """Return the products [S, out] of blocks of `rows` rows with the weights of their experts; see BlockExperts."""
    return _multiply(x_SI, weights, blocks, rows, interpret)


def choose_rows(num_rows: int) -> int:
    """Return the rows of a program, a power of two. With few rows there are more programs of fewer."""
    if num_rows >= 2 * MAX_ROWS:
        return MAX_ROWS
    return min(MAX_ROWS // 2, max(MIN_ROWS, 1 << (num_rows - 1).bit_length()))


def choose_stages(rows: int, dtype: Any) -> int:
    """Return the stages of the loop, as Triton means them: what the 99 KiB of an L4 have room for."""
    return STAGES[rows] if jnp.dtype(dtype).itemsize == 2 else FLOAT32_STAGES


def choose_splits(num_programs: int, num_groups: int, num_rows: int) -> int:
    """Return the number of splits of the groups: none is empty, and the last may be shorter.

    They make up for too few programs, and double these where sums are few: a sixteenth of the codes' bytes at most, if
    the sums of a split are 8 bytes an output and row, written and read, and the codes of a group 64 an output.
    """
    least, most = (max(1, num // num_programs) for num in (PROGRAMS, 2 * PROGRAMS))
    wanted = max(least, min(most, num_groups * 64 // (16 * 8 * num_rows)))
    per_split = -(-num_groups // max(1, min(wanted, num_groups // MIN_GROUPS)))
    return -(-num_groups // per_split)


def _multiply(
    x_TI: Array, weights: Sequence[Codes], blocks: BlockExperts | None, rows: int, interpret: bool
) -> tuple[Array, ...]:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton as plt

    num_rows, num_groups = len(x_TI), weights[0].data_EGOQ.shape[1]
    tiles = [-(-weight.data_EGOQ.shape[2] // OUTPUTS) for weight in weights]
    num_blocks = -(-num_rows // rows)
    num_splits = choose_splits(num_blocks * sum(tiles), num_groups, min(num_rows, rows))
    layout = Layout(rows, num_splits, num_groups, num_rows, interpret)
    dtype = x_TI.dtype if num_splits == 1 else jnp.float32
    outputs = pl.pallas_call(
        functools.partial(_kernel, layout=layout, tiles=tiles),
        # Blocks of rows first: programs at the same time read the same codes, and the rows from the L2 cache.
        grid=(num_blocks, sum(tiles), num_splits),
        out_shape=[jax.ShapeDtypeStruct((num_splits, num_rows, each.data_EGOQ.shape[2]), dtype) for each in weights],
        compiler_params=plt.CompilerParams(num_warps=WARPS[rows], num_stages=choose_stages(rows, x_TI.dtype)),
        interpret=interpret,
        name="int4_matmul",
    )(x_TI, list(weights), blocks)
    return tuple(_add_splits(y_STO).astype(x_TI.dtype) for y_STO in outputs)


def _add_splits(y_STO: Array) -> Array:
    """Return the sum over splits in their order. XLA adds them where the sum is used; not so reductions."""
    return functools.reduce(jnp.add, list(y_STO))


def _kernel(
    x_ref: Any, weights: Sequence[Codes], blocks: BlockExperts | None, *out_refs: Any, layout: Layout, tiles: list[int]
) -> None:
    from jax.experimental import pallas as pl

    block, tile, split = (pl.program_id(axis) for axis in range(3))
    first = 0
    for weight, out_ref, num in zip(weights, out_refs, tiles, strict=True):
        run = functools.partial(_multiply_tile, x_ref, weight, blocks, out_ref, tile - first, block, split, layout)
        pl.when((tile >= first) & (tile < first + num))(run) if len(tiles) > 1 else run()
        first += num


def _multiply_tile(
    x_ref: Any,
    weight: Codes,
    blocks: BlockExperts | None,
    out_ref: Any,
    tile: Array,
    block: Array,
    split: Array,
    layout: Layout,
) -> None:
    """Write the products of a block of rows with a tile of outputs, over the groups of a split."""
    from jax.experimental.pallas import triton as plt

    width_out, quarter = weight.data_EGOQ.shape[2:]
    row_M, output_N = block * layout.rows + _indices(layout.rows), tile * OUTPUTS + _indices(OUTPUTS)
    input_Q = _indices(quarter)
    mask_M = None if layout.num_rows % layout.rows == 0 else row_M < layout.num_rows
    mask_N = None if width_out % OUTPUTS == 0 else output_N < width_out
    mask_MQ = None if mask_M is None else jnp.broadcast_to(mask_M[:, None], (layout.rows, quarter))
    mask_NQ = None if mask_N is None else jnp.broadcast_to(mask_N[:, None], (OUTPUTS, quarter))
    expert = jnp.int32(0) if blocks is None else blocks.expert_X[block]
    per_split = -(-layout.num_groups // layout.num_splits)
    begin = split * per_split
    end = jnp.minimum(begin + per_split, layout.num_groups)
    if blocks is not None:
        end = jnp.where(block < blocks.num[0], end, begin)

    def load_scale(group: Array) -> Array:
        group = jnp.minimum(group, layout.num_groups - 1)
        return _load(weight.scale_EGO, (expert, group, output_N), mask_N)

    def add_group(group: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        sum_NM, scale_N = state
        next_scale_N = load_scale(group + 1)  # a group ahead: Triton fetches early what products read, and this is not
        word_NQ = _load(weight.data_EGOQ, (expert, group, output_N[:, None], input_Q[None, :]), mask_NQ)
        product_NM = jnp.zeros_like(sum_NM)
        for index in range(4):
            column_Q = group * (4 * quarter) + index * quarter + input_Q
            x_MQ = _load(x_ref, (row_M[:, None], column_Q[None, :]), mask_MQ)
            product_NM += _dot(_unpack(word_NQ, index, x_ref.dtype, layout.interpret), x_MQ)
        return _multiply_add(product_NM, scale_N, sum_NM, layout.interpret), next_scale_N

    start = jnp.zeros((OUTPUTS, layout.rows), jnp.float32), load_scale(begin)
    sum_NM, _ = lax.fori_loop(begin, end, add_group, start)
    mask_MN = jnp.broadcast_to((row_M < layout.num_rows)[:, None] & (output_N < width_out)[None, :], sum_NM.T.shape)
    index = (split, row_M[:, None], output_N[None, :])
    plt.store(out_ref.at[index], sum_NM.T.astype(out_ref.dtype), mask=mask_MN)


def _unpack(word_NQ: Array, index: int, dtype: Any, interpret: bool) -> Array:
    """Return the numbers in four bits of each word: those of one quarter of a group."""
    if interpret or dtype != jnp.bfloat16:
        return ((word_NQ >> (4 * index) & 15).astype(jnp.int32) - 8).astype(dtype)
    from jax.experimental.pallas import triton as plt

    [number_NQ] = plt.elementwise_inline_asm(
        "{ " + " ".join(list_unpacking(index)) + " }",
        args=[word_NQ],
        constraints="=r,r",
        pack=2,
        result_shape_dtypes=[jax.ShapeDtypeStruct(word_NQ.shape, jnp.bfloat16)],
    )
    return number_NQ


def list_unpacking(index: int) -> list[str]:
    """Return the instructions that make two numbers in bfloat16, $0, of four bits of each of two words, $1 (PTX).

    In bfloat16, 0x4300 + n is 128 + n, so that two numbers are three instructions: they are moved down, masked and
    completed, and 136 is subtracted.
    """
    return [
        ".reg .b32 bits, one, least;",
        "mov.b32 one, 0x3f803f80;",
        "mov.b32 least, 0xc308c308;",
        f"shr.b32 bits, $1, {4 * index};" if index else "mov.b32 bits, $1;",
        "lop3.b32 bits, bits, 0x000f000f, 0x43004300, 0xea;",  # bits & 0x000f000f | 0x43004300
        "fma.rn.bf16x2 $0, bits, one, least;",
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


def _indices(size: int) -> Array:
    return lax.iota(jnp.int32, size)


def _load(ref: Any, index: tuple[Any, ...], mask: Array | None) -> Array:
    from jax.experimental.pallas import triton as plt

    return plt.load(ref.at[index]) if mask is None else plt.load(ref.at[index], mask=mask, other=0)


def _dot(weight_NH: Array, x_MH: Array) -> Array:
    """Return weight @ x.T, [N, M] float32; float32 operands are not rounded to TF32."""
    return lax.dot_general(
        weight_NH,
        x_MH,
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST if weight_NH.dtype == jnp.float32 else None,
        preferred_element_type=jnp.float32,
    )
