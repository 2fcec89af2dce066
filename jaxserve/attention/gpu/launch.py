"""The launch of the kernels of a call: one that attends, and behind it one that adds the partial sums of splits."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from jaxserve.attention.gpu.partials import PartialSums


class Launch(NamedTuple):
    """The launch of both kernels of a call, as far as they have it in common.

    name        of the first one
    units       what is split, rows or tiles: the combining kernel has a program for each of them and each key head
    parts       the partial sums of all splits; None: nothing is split
    warps, stages, interpret   as `KernelConfig` and `AttentionParams` have them
    """

    name: str
    units: int
    parts: PartialSums | None
    warps: int
    stages: int
    interpret: bool

    def run(
        self,
        attend: Callable[..., None],
        combine: Callable[..., None],
        grid: tuple[int, ...],
        query_TKGH: Array,
        arguments: Sequence[Any],
        combine_arguments: Sequence[Any],
    ) -> Array:
        """Return what the kernels answer, in the shape and type of the queries.

        attend    gets the queries, the arguments, and refs to the answer and to the parts, if there are any
        combine   gets the answers so far, the parts, its arguments, and a ref to the same answers
        grid      of attend; that of combine is key heads and units
        """
        out = jax.ShapeDtypeStruct(query_TKGH.shape, query_TKGH.dtype)
        result = self._call(attend, grid, (out,) if self.parts is None else (out, self.parts), self.name)(
            query_TKGH, *arguments
        )
        if self.parts is None:
            return result[0]
        grid = (query_TKGH.shape[1], self.units)
        return self._call(combine, grid, out, f"{self.name}_combine", {0: 0})(*result, *combine_arguments)

    def _call(
        self,
        kernel: Callable[..., None],
        grid: tuple[int, ...],
        out_shape: Any,
        name: str,
        aliases: dict[int, int] | None = None,
    ) -> Callable[..., Any]:
        return pl.pallas_call(
            kernel,
            grid=grid,
            out_shape=out_shape,
            input_output_aliases=aliases or {},
            compiler_params=plt.CompilerParams(num_warps=self.warps, num_stages=self.stages),
            interpret=self.interpret,
            name=name,
        )
