"""Packing of weights as they are read: blocks of the file as they are, anything else packed anew."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxserve.layers.block_forms import BLOCK_SIZE, FORMS, GROUP_SIZE, PackedKind
from jaxserve.layers.param_spec import Origin, ParamPath, ParamSpec, Part, RowBlocks, Source
from jaxserve.layers.quant import PackedWeight, QuantizedBlocks, pack_blocks, quantize
from jaxserve.weights.mapped_file import aligned_empty, is_zero_copyable
from jaxserve.weights.protocol import Checkpoint, holds_leaves
from jaxserve.weights.shards import find_part

SLAB_VALUES = 1 << 16  # packed at a time: a slab and its scratch stay in cache


def pack_shard(
    checkpoint: Checkpoint,
    path: ParamPath,
    origin: Origin,
    param: ParamSpec,
    target: PackedWeight,
    index: Sequence[slice],
) -> np.ndarray:
    """Return a device's part of a packed weight, of which nothing else is read.

    origin   Where the checkpoint has the weight.
    target   The weight on all devices together.
    index    The part of its data that the device holds: whole groups of outputs and whole blocks of inputs.
    """
    shape = [len(range(*part.indices(size))) for part, size in zip(index, target.data.shape, strict=True)]
    data = aligned_empty(shape, np.dtype(np.uint8))
    *experts, groups, blocks, _ = index
    outputs = _scale(groups, GROUP_SIZE, target.width_out)
    inputs = _scale(blocks, FORMS[target.kind].inputs, target.width_in)
    is_table = path[-1] == "table"  # [out, in], as checkpoints have it
    if is_table:
        whole, leaf_index = (target.width_out, target.width_in), (outputs, inputs)
    else:
        whole, leaf_index = (target.width_in, target.width_out), (inputs, outputs)
    num_experts = target.data.shape[:-3]
    part, _ = find_part(param, (*num_experts, *whole), (*experts, *leaf_index))
    if holds_leaves(checkpoint):
        packed = checkpoint.read_packed(origin.sources[0].name, target.kind, part)
        if packed is not None:
            return _fill_up(packed, data)
    matrices = _read_matrices(checkpoint, origin, part, target.kind, is_table)
    for matrix, data_GBX in zip(matrices, data.reshape(-1, *shape[-3:]), strict=True):
        _pack_matrix(matrix, target.kind, data_GBX)
    return data


def _fill_up(packed: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Return packed data with zeros behind it where `data` is larger: itself if it has that shape and can be kept."""
    if packed.shape == data.shape and is_zero_copyable(packed):
        return packed
    data[...] = 0
    data[tuple(map(slice, packed.shape))] = packed
    return data


def _scale(part: slice, size: int, limit: int) -> slice:
    """Return the numbers in a part of groups, or blocks, of `size` numbers each, of which there are `limit`."""
    return slice((part.start or 0) * size, limit if part.stop is None else min(part.stop * size, limit))


def _read_matrices(
    checkpoint: Checkpoint, origin: Origin, part: Part, kind: PackedKind, is_table: bool
) -> Iterator[QuantizedBlocks | np.ndarray]:
    """Yield the matrices [out, in] of a part of a weight: blocks of the file that are packed alike, or values."""
    for source, each in origin.find_sources(part):
        is_cut = isinstance(source.rows, RowBlocks)
        blocks = None if is_cut else checkpoint.read_blocks(source.name, kind, source.locate(each))
        if blocks is not None:
            yield from _split_stack(blocks, source, each)
            continue
        values = source.read(checkpoint.read, each)
        for matrix in values if values.ndim == 3 else [values]:
            yield matrix if is_table else matrix.T


def _split_stack(blocks: QuantizedBlocks, source: Source, part: Part) -> Iterator[QuantizedBlocks]:
    """Yield the blocks of each matrix: those of a stack are one after the other, since blocks know rows only."""
    num_matrices = len(range(*part[0].indices(source.shape[0]))) if len(source.shape) == 3 else 1
    num_rows = len(blocks.code_OPK) // num_matrices
    for first in range(num_matrices):
        yield blocks.take_rows(slice(first * num_rows, (first + 1) * num_rows))


def _pack_matrix(matrix: QuantizedBlocks | np.ndarray, kind: PackedKind, data_GBX: np.ndarray) -> None:
    """Pack one matrix [out, in], or blocks of one, as its kernel wants it; outputs that it lacks become zeros."""
    num_outputs = len(matrix.code_OPK if isinstance(matrix, QuantizedBlocks) else matrix)
    num_groups = -(-num_outputs // GROUP_SIZE)
    assert num_groups <= len(data_GBX)
    data_GBX[num_groups:] = 0
    if isinstance(matrix, QuantizedBlocks):
        pack_blocks(matrix, data_GBX[:num_groups])
        return
    slab_groups = max(SLAB_VALUES // (data_GBX.shape[1] * BLOCK_SIZE * GROUP_SIZE), 1)
    for first in range(0, num_groups, slab_groups):
        rows_OI = matrix[first * GROUP_SIZE : (first + slab_groups) * GROUP_SIZE]
        pack_blocks(quantize(rows_OI, kind), data_GBX[first : min(first + slab_groups, num_groups)])
