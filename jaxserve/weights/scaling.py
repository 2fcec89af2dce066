"""Rounding of weights for accelerators as they are read: their scales first, from all inputs, then the numbers."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from jaxserve.layers.param_spec import Origin, ParamSpec, Part, RowBlocks, Source
from jaxserve.layers.scaled_weight import (
    ScaledKind,
    ScaledWeight,
    abstract_scaled,
    find_scales,
    round_values,
)
from jaxserve.weights.mapped_file import aligned_empty
from jaxserve.weights.protocol import Checkpoint
from jaxserve.weights.quantized import QuantizedCheckpoint
from jaxserve.weights.shards import find_part

SLAB_VALUES = 1 << 20  # rounded at a time, so that float32 values of a whole weight are never in memory


class StoredScales(NamedTuple):
    """The scales of a weight's numbers in a checkpoint. Rounding with them gives back the very numbers.

    scales   float32 [..., out], or [..., groups of inputs, out] of int4
    zeros    uint8: the codes that mean 0, in the shape of the scales; None: 8 does, or numbers have a sign
    """

    kind: ScaledKind
    scales: np.ndarray
    zeros: np.ndarray | None = None


def find_stored_scales(checkpoint: Checkpoint, origin: Origin) -> StoredScales | None:
    """Return the scales that a checkpoint has of a weight; None if its numbers are none that accelerators multiply."""
    if not isinstance(checkpoint, QuantizedCheckpoint):
        return None
    found = [_find_source_scales(checkpoint, source) for source in origin.sources]
    stored = [each for each in found if each is not None]
    if len(stored) != len(found) or len({(each.kind, each.scales.shape) for each in stored}) != 1:
        return None
    if origin.combine == "take":
        return stored[0]
    scales, zeros = np.stack([each.scales for each in stored]), None
    if any(each.zeros is not None for each in stored):
        zeros = np.stack(
            [np.full(each.scales.shape, 8, np.uint8) if each.zeros is None else each.zeros for each in stored]
        )
    return StoredScales(stored[0].kind, scales, zeros)


def _find_source_scales(checkpoint: QuantizedCheckpoint, source: Source) -> StoredScales | None:
    if stored := checkpoint.find_output_scales(source.name):
        return StoredScales(stored[0], _take_rows(stored[1], source))
    grid = checkpoint.find_group_scales(source.name)
    if grid is None:
        return None
    scale_GO, zero_GO = (None if each is None else np.ascontiguousarray(_take_rows(each, source).T) for each in grid)
    assert scale_GO is not None
    return StoredScales("int4", scale_GO, zero_GO)


def fit_scales(stored: StoredScales | None, target: ScaledWeight) -> StoredScales | None:
    """Return scales that a checkpoint has as a weight wants them; None if its numbers need others."""
    if stored is None or stored.kind != target.kind or (stored.zeros is not None and target.zero is None):
        return None
    if target.kind != "int4":
        return stored
    times, rest = divmod(target.scale.shape[-2], stored.scales.shape[-2])
    if rest:
        return None
    zeros = None if stored.zeros is None else np.repeat(stored.zeros, times, axis=-2)
    return StoredScales("int4", np.repeat(stored.scales, times, axis=-2), zeros)


def _take_rows(scales: np.ndarray, source: Source) -> np.ndarray:
    """Return the scales of a source's outputs, which come first."""
    if source.rows is None:
        return scales
    return scales[source.rows.find(slice(None)) if isinstance(source.rows, RowBlocks) else slice(*source.rows)]


class WeightRounding:
    """A weight of a checkpoint, rounded part by part for the devices that hold it together.

    stored   Scales of all outputs, if the checkpoint has them; None: the smallest with which no number is cut off.
    read     Read a part of the weight, in the leaf's layout.
    param    The weight.
    target   What all devices together have: with key heads repeated, and the vocabulary filled up with zeros.
    """

    def __init__(
        self,
        read: Callable[[Part], np.ndarray],
        param: ParamSpec,
        target: ScaledWeight,
        stored: StoredScales | None = None,
    ) -> None:
        self._read, self._param, self._target = read, param, target
        group = target.group if target.kind == "int4" else None
        self._own = abstract_scaled(target.kind, param.shape, is_table=target.is_table, form=target.form, group=group)
        self._zeros = None if self._own.zero is None else np.full(self._own.scale.shape, 8, np.uint8)
        if stored is not None:
            self._scales = stored.scales
            self._zeros = self._zeros if stored.zeros is None else stored.zeros
            return
        self._scales = np.empty(self._own.scale.shape, np.float32)
        for slab, outputs in self._list_slabs(tuple(slice(0, size) for size in param.shape)):
            self._scales[..., outputs] = find_scales(self._read_float32(slab), self._own)

    def read_scale(self, index: Sequence[slice]) -> np.ndarray:
        """Return a part of the scales."""
        return self._read_grid(self._scales, index)

    def read_zero(self, index: Sequence[slice]) -> np.ndarray:
        """Return a part of the zero points, which the weight has."""
        assert self._zeros is not None
        return self._read_grid(self._zeros, index)

    def _read_grid(self, grid: np.ndarray, index: Sequence[slice]) -> np.ndarray:
        """Return a part of numbers of outputs, or of groups and outputs."""
        *front, outputs = index
        experts = front[: len(self._param.shape) - 2]
        groups = front[len(experts) :]
        part, num_zeros = self._find_part(experts, slice(None), outputs)
        axis = self._output_axis
        found = grid[(*part[: len(experts)], *groups, part[axis])]
        return np.pad(found, [(0, 0)] * (found.ndim - 1) + [(0, num_zeros[axis])])

    def read_data(self, index: Sequence[slice]) -> np.ndarray:
        """Return a part of the numbers: whole groups of int4."""
        num_experts = len(self._param.shape) - 2
        experts, rest = index[:num_experts], index[num_experts:]
        if self._target.kind == "int4":
            groups, outputs = (rest[0], rest[1]) if self._target.has_kernel else (rest[0], rest[2])
            start, stop, _ = groups.indices(self._target.data.shape[-3])
            size = self._target.group
            inputs = slice(start * size, stop * size)
        else:
            outputs, inputs = rest if self._target.is_table else rest[::-1]
            groups = slice(None)
        part, _ = self._find_part(experts, inputs, outputs)
        shape = [len(range(*each.indices(size))) for each, size in zip(index, self._target.data.shape, strict=True)]
        data = aligned_empty(shape, np.dtype(self._target.data.dtype))
        done = 0
        for slab, places in self._list_slabs(part):
            scale_groups = [groups] if self._target.kind == "int4" else []
            place = (*slab[:num_experts], *scale_groups, slab[self._output_axis])
            zeros = None if self._zeros is None else self._zeros[place]
            values = round_values(self._read_float32(slab), self._scales[place], self._own, zeros)
            self._take_outputs(data, places)[...] = values
            done = places.stop
        self._take_outputs(data, slice(done, None))[...] = 0
        return data

    @property
    def _output_axis(self) -> int:
        """The axis of outputs in the leaf's layout."""
        return len(self._param.shape) - (2 if self._target.is_table else 1)

    def _take_outputs(self, data: np.ndarray, outputs: slice) -> np.ndarray:
        has_last_inputs = self._target.is_table or self._target.has_kernel
        return data[..., outputs, :] if has_last_inputs else data[..., outputs]

    def _find_part(self, experts: Sequence[slice], inputs: slice, outputs: slice) -> tuple[Part, tuple[int, ...]]:
        matrix = (outputs, inputs) if self._target.is_table else (inputs, outputs)
        return find_part(self._param, self._target.shape, (*experts, *matrix))

    def _read_float32(self, part: Part) -> np.ndarray:
        return self._read(part).astype(np.float32)

    def _list_slabs(self, part: Part) -> Iterator[tuple[Part, slice]]:
        """Yield the parts of a part of the weight that have some of its outputs, and which these are in the part."""
        axis = self._output_axis
        start, stop = part[axis].start, part[axis].stop
        num_others = prod(each.stop - each.start for position, each in enumerate(part) if position != axis)
        size = max(SLAB_VALUES // max(num_others, 1), 1)
        for first in range(start, stop, size):
            outputs = slice(first, min(first + size, stop))
            yield (*part[:axis], outputs, *part[axis + 1 :]), slice(first - start, outputs.stop - start)
