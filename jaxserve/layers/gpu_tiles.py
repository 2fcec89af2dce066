"""Products on NVIDIA GPUs, tile by tile: which program multiplies which rows with which outputs of which weight.

A Pallas kernel, lowered through Triton, in which a program has some outputs, some rows of activations and some turns of
a loop over the inputs. What a turn computes is for the kinds of weights to say: int4_gpu.py and experts_gpu.py.

Outputs take the place of rows in a tensor core's instruction, and rows that of columns, which may be 16. Where there
are too few outputs for all multiprocessors the turns are cut into splits, whose sums are added behind the kernel in
their order. Weights that share an input are one call. So are those of experts, whose rows come in blocks of one expert.

Everything that Pallas might leave to a default is passed; see attention/gpu. It counts the places of 16-bit numbers
right in arrays of any size, where those of 8 bits overflow between 2 and 4 GiB.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

OUTPUTS = 128  # of a program
MIN_ROWS, MAX_ROWS = 16, 128  # of a program: a tensor core has 16 at least, as Triton uses it
PROGRAMS = 132  # up to so many if the turns are cut: one for each multiprocessor of an H200
MIN_TURNS = 2  # of a split
SUM_BYTES = 8  # of a split, an output and a row: written and read
WARPS = {16: 4, 32: 4, 64: 4, 128: 8}  # by rows of a program
STAGES = {16: 4, 32: 4, 64: 4, 128: 3}
FLOAT32_STAGES = 2


class BlockExperts(NamedTuple):
    """The experts of blocks of rows, of which those behind the first `num` are not written.

    The first one is, with zeros if there is none: ranks that have few of all experts use few of the blocks.

    expert_X   int32 [blocks]
    num        int32 [1]
    row_S      int32 [blocks * rows]: which row of the activations a row holds; None: the one at its own place
    """

    expert_X: Any
    num: Any
    row_S: Any = None


@dataclass(frozen=True)
class Epilogue:
    """The step behind products of weights that share an input: biases are added, and one array is made of all.

    combine      of one or two products
    biases       [experts, out] of each product; none
    has_kernel   Triton knows the functions in it
    """

    combine: Callable[..., Array]
    biases: tuple[Array, ...] = ()
    has_kernel: bool = True

    def apply(self, products: Sequence[Array], expert: Array) -> Array:
        """Return what becomes of products [S, out]; expert: that of each row [S], or of all of them []."""
        if self.biases:
            products = [y_SO + bias_EO[expert] for y_SO, bias_EO in zip(products, self.biases, strict=True)]
        return self.combine(*products)


@dataclass(frozen=True)
class Tiling:
    """Static facts of a call.

    rows         of activations of a program
    num_rows     of results
    num_turns    of the loop over inputs
    num_splits   of the turns
    """

    rows: int
    num_rows: int
    num_turns: int
    num_splits: int
    interpret: bool


class Tile(NamedTuple):
    """The part of a program: products of rows with outputs of an expert's weight, over some turns.

    row_M, output_N     int32: of the activations, and of the weight
    mask_M, mask_N      which of them there are; None: all
    begin, end          the turns
    """

    expert: Array
    row_M: Array
    output_N: Array
    mask_M: Array | None
    mask_N: Array | None
    begin: Array
    end: Array


AddUp = Callable[[Any, Any, Tile, Tiling], Array]
"""Return the sums over a tile's turns, [outputs, rows] float32, of the activations' ref and those of a weight."""


def choose_rows(num_rows: int) -> int:
    """Return the rows of a program, a power of two. With few rows there are more programs of fewer."""
    if num_rows >= 2 * MAX_ROWS:
        return MAX_ROWS
    return min(MAX_ROWS // 2, max(MIN_ROWS, 1 << (num_rows - 1).bit_length()))


def choose_stages(rows: int, dtype: Any) -> int:
    """Return the stages of the loop, as Triton means them: what the 99 KiB of an L4 have room for."""
    return STAGES[rows] if jnp.dtype(dtype).itemsize == 2 else FLOAT32_STAGES


def choose_splits(num_programs: int, num_turns: int, num_rows: int, turn_bytes: int) -> int:
    """Return the number of splits of the turns: none is empty, and the last may be shorter.

    They make up for too few programs, and double these where sums are few: a sixteenth of the weights' bytes at most.

    turn_bytes   of an output in a turn
    """
    least, most = (max(1, num // num_programs) for num in (PROGRAMS, 2 * PROGRAMS))
    wanted = max(least, min(most, num_turns * turn_bytes // (16 * SUM_BYTES * num_rows)))
    per_split = -(-num_turns // max(1, min(wanted, num_turns // MIN_TURNS)))
    return -(-num_turns // per_split)


def count_tiles(width_out: int) -> int:
    """Return the tiles of so many outputs."""
    return -(-width_out // OUTPUTS)


def multiply_tiles(
    x_TI: Array,
    weights: Sequence[Any],
    widths_out: Sequence[int],
    blocks: BlockExperts | None,
    tiling: Tiling,
    add_up: AddUp,
    name: str,
) -> tuple[Array, ...]:
    """Return the products [S, out] in x's type of each of the weights, pytrees of arrays, with their outputs.

    blocks   those of the rows; None: weights have one expert
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton as plt

    dtype = x_TI.dtype if tiling.num_splits == 1 else jnp.float32
    shapes = [(tiling.num_splits, tiling.num_rows, width_out) for width_out in widths_out]
    outputs = pl.pallas_call(
        functools.partial(_kernel, tiling=tiling, add_up=add_up),
        # Blocks of rows first: programs at the same time read the same weights, and the rows from the L2 cache.
        grid=(-(-tiling.num_rows // tiling.rows), sum(map(count_tiles, widths_out)), tiling.num_splits),
        out_shape=[jax.ShapeDtypeStruct(shape, dtype) for shape in shapes],
        compiler_params=plt.CompilerParams(
            num_warps=WARPS[tiling.rows], num_stages=choose_stages(tiling.rows, x_TI.dtype)
        ),
        interpret=tiling.interpret,
        name=name,
    )(x_TI, list(weights), blocks)
    return tuple(_add_splits(y_STO).astype(x_TI.dtype) for y_STO in outputs)


def _add_splits(y_STO: Array) -> Array:
    """Return the sum over splits in their order. XLA adds them where the sum is used; not so reductions."""
    return functools.reduce(jnp.add, list(y_STO))


def _kernel(
    x_ref: Any, weights: Sequence[Any], blocks: BlockExperts | None, *out_refs: Any, tiling: Tiling, add_up: AddUp
) -> None:
    from jax.experimental import pallas as pl

    block, tile, split = (pl.program_id(axis) for axis in range(3))
    first = 0
    for weight, out_ref in zip(weights, out_refs, strict=True):
        num = count_tiles(out_ref.shape[-1])
        run = functools.partial(
            _run_tile, x_ref, weight, blocks, out_ref, (tile - first, block, split), tiling=tiling, add_up=add_up
        )
        pl.when((tile >= first) & (tile < first + num))(run) if len(out_refs) > 1 else run()
        first += num


def _run_tile(
    x_ref: Any,
    weight: Any,
    blocks: BlockExperts | None,
    out_ref: Any,
    place: tuple[Array, Array, Array],
    *,
    tiling: Tiling,
    add_up: AddUp,
) -> None:
    """Write the products of a block of rows with a tile of outputs, over the turns of a split."""
    from jax.experimental.pallas import triton as plt

    tile, block, split = place
    slot_M = block * tiling.rows + indices(tiling.rows)
    output_N, width_out = tile * OUTPUTS + indices(OUTPUTS), out_ref.shape[-1]
    mask_M = None if tiling.num_rows % tiling.rows == 0 else slot_M < tiling.num_rows
    mask_N = None if width_out % OUTPUTS == 0 else output_N < width_out
    per_split = -(-tiling.num_turns // tiling.num_splits)
    begin = split * per_split
    end = jnp.minimum(begin + per_split, tiling.num_turns)
    expert, row_M, num_rows = jnp.int32(0), slot_M, tiling.num_rows
    if blocks is not None:
        expert = blocks.expert_X[block]
        end = jnp.where(block < blocks.num[0], end, begin)
        num_rows = jnp.maximum(blocks.num[0], 1) * tiling.rows
        row_M = slot_M if blocks.row_S is None else load(blocks.row_S, (slot_M,), mask_M)
    value_NM = add_up(x_ref, weight, Tile(expert, row_M, output_N, mask_M, mask_N, begin, end), tiling)
    mask_MN = (slot_M < num_rows)[:, None] & (output_N < width_out)[None, :]
    index = (split, slot_M[:, None], output_N[None, :])
    value_MN = value_NM.T.astype(out_ref.dtype)
    plt.store(out_ref.at[index], value_MN, mask=jnp.broadcast_to(mask_MN, value_MN.shape))


def indices(size: int) -> Array:
    """Return the numbers from 0 on."""
    return lax.iota(jnp.int32, size)


def load(ref: Any, index: tuple[Any, ...], mask: Array | None) -> Array:
    """Return the numbers of a ref at places, zeros where the mask, of the places' shape, is False."""
    from jax.experimental.pallas import triton as plt

    return plt.load(ref.at[index]) if mask is None else plt.load(ref.at[index], mask=mask, other=0)


def choose_precision(dtype: Any) -> lax.Precision | None:
    """Return the precision with which float32 operands are not rounded to TF32."""
    return lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
