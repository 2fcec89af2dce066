"""Products with the weights of experts on NVIDIA GPUs: a kernel that reads those of each block's expert, and no other.

XLA makes a product of every expert with every row of `ragged_dot` there, and stores its input once for each expert:
134 MB and 13 GFLOP of one product at 32 rows of Qwen3-30B-A3B on eight GPUs, 128 times what is needed (jaxlib 0.10.2,
compiled for an H100). Weights of 8 bits it would expand, all of them.

Rows come in blocks of one expert (gpu_tiles.py), and are read where they lie: nothing is sorted in memory. Weights in
int8 and fp8 become numbers of the activations' type on their way to the tensor cores, and the sums are multiplied with
their scales in float32. Gate and up are one tile, and what an epilogue makes of their sums is all that is written;
not so where there are few tiles and inputs are split: then XLA computes it.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from jaxserve.layers.gpu_tiles import (
    OUTPUTS,
    BlockExperts,
    Epilogue,
    Tile,
    Tiling,
    choose_precision,
    choose_splits,
    choose_stages,
    count_tiles,
    indices,
    load,
    multiply_tiles,
)

TURN_INPUTS = (64, 32)  # of a turn of the loop: the first with which its stages fit
SHARED_BYTES = 96 * 1024  # of a program: an L4 has 99 KiB


class ExpertWeight(NamedTuple):
    """The ref, or array, of a weight of stacked experts.

    data_EIO   [experts, in, out]: numbers of the activations' type or of 8 bits
    scale_EO   float32 [experts, out] of 8 bits; None: there is none
    """

    data_EIO: Any
    scale_EO: Any = None


class _TileWeights(NamedTuple):
    """Weights that a tile has together, and biases [experts, out] of their products; or none."""

    weights: tuple[ExpertWeight, ...]
    biases: tuple[Any, ...] = ()

    @property
    def width_out(self) -> int:
        return self.weights[0].data_EIO.shape[2]


def expert_matmul(
    x_TI: Array,
    blocks: BlockExperts,
    *weights: ExpertWeight,
    rows: int,
    epilogue: Epilogue | None = None,
    interpret: bool = False,
) -> tuple[Array, ...]:
    """Return the products [S, out] of blocks of `rows` rows with the weights of their experts; see BlockExperts.

    epilogue   What it makes of them is returned, one array.
    """
    multiply = functools.partial(_multiply, x_TI, blocks, rows=rows, interpret=interpret)
    apart = [_TileWeights((weight,)) for weight in weights]
    if epilogue is None:
        return multiply(apart)
    together = [_TileWeights(weights, epilogue.biases)]
    if epilogue.has_kernel and _choose_tiling(x_TI, blocks, together, rows, interpret).num_splits == 1:
        return multiply(together, combine=epilogue.combine)
    return (epilogue.apply(multiply(apart), jnp.repeat(blocks.expert_X, rows)),)


def choose_turn_inputs(num_weights: int, rows: int, dtype: Any) -> int:
    """Return the inputs of a turn of the loop, for weights that a tile has together; dtype: of the activations."""
    input_bytes = (OUTPUTS * num_weights + rows) * jnp.dtype(dtype).itemsize * choose_stages(rows, dtype)
    return next((size for size in TURN_INPUTS if size * input_bytes <= SHARED_BYTES), TURN_INPUTS[-1])


def _choose_tiling(
    x_TI: Array, blocks: BlockExperts, calls: Sequence[_TileWeights], rows: int, interpret: bool
) -> Tiling:
    num_rows = len(x_TI if blocks.row_S is None else blocks.row_S)
    inputs = choose_turn_inputs(len(calls[0].weights), rows, x_TI.dtype)
    num_turns = -(-x_TI.shape[1] // inputs)
    turn_bytes = inputs * jnp.dtype(calls[0].weights[0].data_EIO.dtype).itemsize
    num_programs = num_rows // rows * sum(count_tiles(call.width_out) for call in calls)
    return Tiling(rows, num_rows, num_turns, choose_splits(num_programs, num_turns, rows, turn_bytes), interpret)


def _multiply(
    x_TI: Array, blocks: BlockExperts, calls: Sequence[_TileWeights], *, rows: int, interpret: bool, combine: Any = None
) -> tuple[Array, ...]:
    tiling = _choose_tiling(x_TI, blocks, calls, rows, interpret)
    inputs = choose_turn_inputs(len(calls[0].weights), rows, x_TI.dtype)
    add_up = functools.partial(_add_inputs, inputs=inputs, combine=combine)
    widths_out = [call.width_out for call in calls]
    return multiply_tiles(x_TI, calls, widths_out, blocks, tiling, add_up, "expert_matmul")


def _add_inputs(x_ref: Any, call: _TileWeights, tile: Tile, tiling: Tiling, *, inputs: int, combine: Any) -> Array:
    """Return the sums over a tile's turns, or what the epilogue makes of them; see AddUp."""
    width_in = x_ref.shape[1]

    def add_turn(turn: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        input_I = turn * inputs + indices(inputs)
        mask_I = None if width_in % inputs == 0 else input_I < width_in
        x_MI = load(x_ref, (tile.row_M[:, None], input_I[None, :]), _cross(tile.mask_M, mask_I, tiling.rows, inputs))
        mask_IN, place = _cross(mask_I, tile.mask_N, inputs, OUTPUTS), (input_I[:, None], tile.output_N[None, :])
        numbers = (load(weight.data_EIO, (tile.expert, *place), mask_IN) for weight in call.weights)
        return tuple(
            sum_NM + _dot(number_IN.astype(x_MI.dtype), x_MI) for sum_NM, number_IN in zip(sums, numbers, strict=True)
        )

    start = tuple(jnp.zeros((OUTPUTS, tiling.rows), jnp.float32) for _ in call.weights)
    sums = list(lax.fori_loop(tile.begin, tile.end, add_turn, start))

    def spread(ref_EO: Any) -> Array:
        return load(ref_EO, (tile.expert, tile.output_N), tile.mask_N).astype(jnp.float32)[:, None]

    for index, weight in enumerate(call.weights):
        if weight.scale_EO is not None:
            sums[index] *= spread(weight.scale_EO)
    sums = (
        [sum_NM + spread(bias_EO) for sum_NM, bias_EO in zip(sums, call.biases, strict=True)] if call.biases else sums
    )
    return sums[0] if combine is None else combine(*sums)


def _cross(mask_A: Array | None, mask_B: Array | None, size_A: int, size_B: int) -> Array | None:
    """Return where both masks are True, [A, B]; None: everywhere."""
    masks = [mask[:, None] for mask in (mask_A,) if mask is not None]
    masks += [mask[None, :] for mask in (mask_B,) if mask is not None]
    if not masks:
        return None
    return functools.reduce(jnp.logical_and, (jnp.broadcast_to(mask, (size_A, size_B)) for mask in masks))


def _dot(weight_IN: Array, x_MI: Array) -> Array:
    """Return (x @ weight).T, [N, M] float32."""
    return lax.dot_general(
        weight_IN,
        x_MI,
        (((0,), (1,)), ((), ())),
        precision=choose_precision(weight_IN.dtype),
        preferred_element_type=jnp.float32,
    )
