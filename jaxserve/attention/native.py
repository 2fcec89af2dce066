"""Attention for CPUs in C: walks the page table in place and computes only what is seen. float32 only.

Pages lie as in cpu.py, so that either can be held to the other. The work is cut into tiles of queries of one row and
one key head, however long the rows are, and the threads that XLA itself computes on take them one by one. A row's
result depends neither on the thread nor on the other rows of the batch.

Measured with jax 0.10.2 on two cores of an AMD EPYC (AVX-512), SmolLM2-135M, as processor time of a whole decode
step, both cores added, median of 9 interleaved runs: at 32 rows of 256 tokens 182 ms with the walk of cpu.py, 102
with this, 72 without any attention; at 8 rows 72, 50 and 39; at one row 31, 26 and 22.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.attention.cpu import CpuAttention, CpuPages
from jaxserve.attention.inputs import AttentionInputs
from jaxserve.errors import BadConfig
from jaxserve.native import library


class NativeAttention:
    """Attention by the C kernels. Raises BadConfig if they cannot be compiled here."""

    name = "native"

    def __init__(self) -> None:
        library.load_kernels()

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> CpuPages:
        """Return one layer's pages, all zeros, which take no memory until they are written.

        Raises BadConfig if dtype is not float32.
        """
        if jnp.dtype(dtype) != jnp.float32:
            raise BadConfig(f"attention_backend 'native' computes in float32, not {jnp.dtype(dtype)}; try 'cpu'.")
        shapes = jax.eval_shape(partial(CpuAttention().make_pages, num_pages, page_size, kv_heads, head_dim, dtype))
        # Declared to have effects, or XLA would make the zeros of one layer and copy them for the others.
        return CpuPages(
            *jax.ffi.ffi_call("jaxserve_zeros", (shapes.key_PKHZ, shapes.value_PKZH), has_side_effect=True)()
        )

    def write(self, pages: CpuPages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> CpuPages:
        """Return the pages with the tokens in their slots. Donate pages."""
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in (pages.key_PKHZ, pages.value_PKZH))
        call = jax.ffi.ffi_call("jaxserve_write", shapes, input_output_aliases={0: 0, 1: 1})
        new = (jnp.asarray(leaf, jnp.float32) for leaf in (key_TKH, value_TKH))
        return CpuPages(*call(pages.key_PKHZ, pages.value_PKZH, *new, jnp.asarray(slot_T, jnp.int32)))

    def attend(
        self,
        query_TNH: Array,
        pages: CpuPages,
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
            pages.key_PKHZ,
            pages.value_PKZH,
            *(inputs.position_T, inputs.page_table_BW, inputs.length_B, inputs.query_start_B1, sink_N),
            scale=np.float64(scale),
            softcap=np.float64(softcap or 0.0),
            window=np.float64(window or 0),
        )
        return out_TNH.astype(query_TNH.dtype)
