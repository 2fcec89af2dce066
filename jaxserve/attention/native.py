"""Attention for CPUs in C: walks the page table in place and computes only what is seen. float32 only.

A page lies as in cpu.py. The layers of a cache group have their pages in the same arrays, 2 instead of 60 for
SmolLM2-135M: each costs the host about 6 us a call where its caches are cold (two cores of an AMD EPYC). The work is
cut into tiles of queries of one row and one key head, however long the rows are, and the threads that XLA itself
computes on take them one by one. A row's result depends neither on the thread nor on the other rows of the batch.

Measured with jax 0.10.2 on two cores of an AMD EPYC (AVX-512), SmolLM2-135M, as processor time of a whole decode
step, both cores added, median of 9 interleaved runs: at 32 rows of 256 tokens 182 ms with the walk of blocks.py, 102
with this, 72 without any attention; at 8 rows 72, 50 and 39; at one row 31, 26 and 22.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.attention.inputs import PAGE_SIZE, AttentionInputs
from jaxserve.attention.latent import BlockLatentAttention
from jaxserve.errors import BadConfig
from jaxserve.native import library


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NativePages:
    """The pages of several layers, keys with the position axis last.

    layer   int32 scalar, the layer that is written and read; None: the first.
    """

    key_PLKHZ: Array
    value_PLKZH: Array
    layer: Array | None = None

    def at_layer(self, layer: int) -> "NativePages":
        """Return the pages with one layer chosen."""
        return replace(self, layer=jnp.int32(layer))

    def at_rest(self) -> "NativePages":
        """Return the pages with no layer chosen."""
        return replace(self, layer=None)


class NativeAttention:
    """Attention by the C kernels. Raises BadConfig if they cannot be compiled here."""

    name = "native"
    stacks_layers = True
    latent = BlockLatentAttention()

    def __init__(self) -> None:
        library.load_kernels()

    def default_page_size(self, num_rows: int, max_tokens: int) -> int:
        """Return PAGE_SIZE."""
        return PAGE_SIZE

    def make_pages(
        self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any, num_layers: int = 1
    ) -> NativePages:
        """Return the pages of some layers, all zeros, which take no memory until they are written.

        Raises BadConfig if dtype is not float32.
        """
        if jnp.dtype(dtype) != jnp.float32:
            raise BadConfig(f"attention_backend 'native' computes in float32, not {jnp.dtype(dtype)}; try 'cpu'.")
        first_axes = (num_pages, num_layers, kv_heads)
        shapes = (
            jax.ShapeDtypeStruct((*first_axes, head_dim, page_size), jnp.float32),
            jax.ShapeDtypeStruct((*first_axes, page_size, head_dim), jnp.float32),
        )
        # Declared to have effects, or XLA would make the zeros of one array and copy them for the others.
        return NativePages(*jax.ffi.ffi_call("jaxserve_zeros", shapes, has_side_effect=True)())

    def write(self, pages: NativePages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> NativePages:
        """Return the pages with the tokens in their slots. Donate pages."""
        arrays = (pages.key_PLKHZ, pages.value_PLKZH)
        shapes = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays)
        call = jax.ffi.ffi_call("jaxserve_write", shapes, input_output_aliases={0: 0, 1: 1})
        new = (jnp.asarray(leaf, jnp.float32) for leaf in (key_TKH, value_TKH))
        return NativePages(*call(*arrays, _index(pages), *new, jnp.asarray(slot_T, jnp.int32)), layer=pages.layer)

    def attend(
        self,
        query_TNH: Array,
        pages: NativePages,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, H]; see `AttentionBackend`."""
        sink_N = jnp.full(query_TNH.shape[1], -jnp.inf, jnp.float32) if sinks is None else sinks.astype(jnp.float32)
        call = jax.ffi.ffi_call("jaxserve_attend", jax.ShapeDtypeStruct(query_TNH.shape, jnp.float32))
        out_TNH = call(
            query_TNH.astype(jnp.float32),
            *(pages.key_PLKHZ, pages.value_PLKZH, _index(pages)),
            *(inputs.position_T, inputs.page_table_BW, inputs.length_B, inputs.query_start_B1, sink_N),
            scale=np.float64(scale),
            softcap=np.float64(softcap or 0.0),
            window=np.float64(window or 0),
        )
        return out_TNH.astype(query_TNH.dtype)


def _index(pages: NativePages) -> Array:
    return jnp.int32(0) if pages.layer is None else pages.layer
