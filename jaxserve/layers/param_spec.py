"""ParamSpec: a weight described once, for loading, packing, saving and sharding.

A weight's shape is that of the leaf, as the network uses it. Its origins say how checkpoints hold it: in a tensor of
its own, as rows of a fused tensor, as a part of a stack of experts, or as one tensor for each expert.
"""

from collections.abc import Callable, Container, Hashable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from jaxserve.parallel.sharding import Axis

ParamPath: TypeAlias = tuple[Hashable, ...]
"""A leaf's place in the module tree, e.g. ("layers", 3, "attention", "query", "kernel")."""
Part: TypeAlias = tuple[slice, ...]
"""A part of an array: start and stop along every axis. Without any axis: all of it."""
ReadPart: TypeAlias = Callable[[str, Part], np.ndarray]
"""Read a part of a checkpoint's tensor, in the layout of the checkpoint."""


@dataclass(frozen=True, slots=True)
class RowBlocks:
    """Rows of a tensor in equal blocks, usually one for each head: `size` rows from `start` on, of every `stride`."""

    num: int
    size: int
    stride: int
    start: int = 0

    def find(self, part: slice) -> np.ndarray:
        """Return the tensor's indices of some of these rows."""
        index = np.arange(self.num * self.size)[part]
        return index // self.size * self.stride + self.start + index % self.size


@dataclass(frozen=True, slots=True)
class Source:
    """One checkpoint tensor, or some of its rows.

    shape         of the whole tensor, as the checkpoint must have it
    rows          (start, stop, step) along the first axis of a matrix or vector, or along the second of a stack of
                  experts; or blocks of rows; None: all of them
    axis          the axis that rows count along, if it is not that one
    is_row        the tensor is a matrix of one row, and the leaf a vector
    is_transposed the last two axes are swapped on the way to the leaf: checkpoints hold matrices [out, in]
    """

    name: str
    shape: tuple[int, ...]
    rows: tuple[int, int, int] | RowBlocks | None = None
    is_transposed: bool = False
    axis: int | None = None
    is_row: bool = False

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Return the shape of the part that is read, in the checkpoint's layout."""
        if self.rows is None:
            return self.shape
        shape = list(self.shape)
        rows = self.rows
        shape[self.row_axis] = rows.num * rows.size if isinstance(rows, RowBlocks) else len(range(*rows))
        return tuple(shape)

    @property
    def row_axis(self) -> int:
        """Return the axis that `rows` counts along."""
        if self.axis is not None:
            return self.axis
        return 1 if len(self.shape) == 3 else 0

    def locate(self, part: Part = ()) -> Part:
        """Return where the tensor has a part of what is made of this source, which is given in the leaf's layout.

        Of blocks of rows: from the first row to the last one, with those between.
        """
        located = self._to_tensor_layout(part)
        if isinstance(self.rows, RowBlocks):
            index = self.rows.find(located[self.row_axis])
            located[self.row_axis] = slice(int(index[0]), int(index[-1]) + 1)
        elif self.rows is not None:
            rows = range(*self.rows)[located[self.row_axis]]
            located[self.row_axis] = slice(rows.start, rows.stop, rows.step)
        return tuple(located)

    def read(self, read_part: ReadPart, part: Part = ()) -> np.ndarray:
        """Return a part in the leaf's layout, a view where the tensor's reader gives one."""
        values = read_part(self.name, self.locate(part))
        if isinstance(self.rows, RowBlocks):
            index = self.rows.find(self._to_tensor_layout(part)[self.row_axis])
            values = values.take(index - index[0], axis=self.row_axis)
        if self.is_row:
            return values[0]
        return np.swapaxes(values, -1, -2) if self.is_transposed else values

    def write(self, tensor: np.ndarray, values: np.ndarray) -> None:
        """Put all that is made of this source into its tensor: the inverse of `read`."""
        if self.is_row:
            values = values[None]
        elif self.is_transposed:
            values = np.swapaxes(values, -1, -2)
        index: list[slice | np.ndarray] = [slice(None)] * len(self.shape)
        if isinstance(self.rows, RowBlocks):
            index[self.row_axis] = self.rows.find(slice(None))
        elif self.rows is not None:
            index[self.row_axis] = slice(*self.rows)
        tensor[tuple(index)] = values

    def _to_tensor_layout(self, part: Part) -> list[slice]:
        if not part:
            return [slice(0, size) for size in self.part_shape]
        if self.is_row:
            return [slice(0, 1), *part]
        return [*part[:-2], part[-1], part[-2]] if self.is_transposed else list(part)


Combine: TypeAlias = Literal["take", "stack"]


@dataclass(frozen=True, slots=True)
class Origin:
    """One way in which checkpoints hold a weight: the only source is taken, or several are stacked (experts)."""

    sources: tuple[Source, ...]
    combine: Combine = "take"

    def find_sources(self, part: Part = ()) -> list[tuple[Source, Part]]:
        """Return the sources of a part of the leaf, each with the part that it has, in the leaf's layout."""
        if self.combine == "take":
            return [(self.sources[0], part)]
        return [(source, part[1:]) for source in (self.sources[part[0]] if part else self.sources)]

    def read(self, read_part: ReadPart, part: Part = ()) -> np.ndarray:
        """Return a part of the leaf, a view where the tensor's reader gives one and nothing is stacked."""
        values = [source.read(read_part, each) for source, each in self.find_sources(part)]
        return values[0] if self.combine == "take" else np.stack(values)


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """One weight of a network.

    shape        of the leaf: kernels [in, out], tables [vocabulary, width], experts' kernels [experts, in, out]
    axes         one logical axis for each of the shape's, None: never sharded
    origins      ways in which checkpoints hold it, the usual one first
    is_packable  it is multiplied with activations, so a quantization may pack it
    is_float32   it is float32 whatever the type of the others
    """

    shape: tuple[int, ...]
    axes: tuple[Axis | None, ...]
    origins: tuple[Origin, ...]
    is_packable: bool = False
    is_float32: bool = False

    def choose_origin(self, names: Container[str]) -> Origin:
        """Return the first origin of which all tensors are among the names, else the usual one."""
        complete = (origin for origin in self.origins if all(source.name in names for source in origin.sources))
        return next(complete, self.origins[0])
