"""The write: one program per token copies its key row and value row into its slot, in place.

A kernel and not scatters: one launch serves every plane, the aliasing is ours to state, and nothing must be
promised about distinct slots. All padding goes to page 0, where such rows race, and nobody reads them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt

from jaxserve.attention.gpu.blocks import indices, load_masked, store_masked
from jaxserve.attention.gpu.pages import GpuPages, next_power_of_two
from jaxserve.attention.page_types import quantize


def write(pages: GpuPages, key_TKH: Array, value_TKH: Array, slot_T: Array, *, interpret: bool) -> GpuPages:
    """Return the pages with the tokens in their slots. Donate pages."""
    key_TKH, key_scale_TK = quantize(key_TKH, pages.key_PZKH.dtype)
    value_TKH, value_scale_TK = quantize(value_TKH, pages.value_PZKH.dtype)
    new = GpuPages(key_TKH, value_TKH, key_scale_TK, value_scale_TK)
    planes, tree = jax.tree.flatten(pages)
    rows = [plane.reshape(plane.shape[0] * plane.shape[1], -1) for plane in planes]
    new_rows = [leaf.reshape(slot_T.shape[0], -1) for leaf in jax.tree.leaves(new)]
    rows = pl.pallas_call(
        functools.partial(_write_kernel, count=len(rows)),
        grid=(slot_T.shape[0],),
        out_shape=[jax.ShapeDtypeStruct(row.shape, row.dtype) for row in rows],
        input_output_aliases={1 + len(rows) + index: index for index in range(len(rows))},
        compiler_params=plt.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="page_write",
    )(jnp.asarray(slot_T), *new_rows, *rows)
    return jax.tree.unflatten(tree, [row.reshape(plane.shape) for row, plane in zip(rows, planes, strict=True)])


def _write_kernel(slot_ref: Any, *refs: Any, count: int) -> None:
    token = pl.program_id(0)
    slot = slot_ref[token]
    for new_ref, out_ref in zip(refs[:count], refs[2 * count :], strict=True):
        width = new_ref.shape[1]
        index_X = indices(next_power_of_two(width))
        store_masked(out_ref, (slot, index_X), load_masked(new_ref, (token, index_X), index_X < width), index_X < width)
