"""Attention for CPUs in C: walks the page table in place and computes only what is seen. Computes in float32.

A page lies as in cpu.py, and its numbers have any of the types of page_types.py. The layers of a cache group have their
pages in the same arrays, 2 instead of 60 for SmolLM2-135M: each costs the host about 6 us a call where its caches are
cold (two cores of an AMD EPYC). The work is cut into tiles of queries of one row and one key head, however long the
rows are, and the threads that XLA itself computes on take them one by one. A row's result depends neither on the thread
nor on the other rows of the batch.

Measured with jax 0.10.2 on two cores of an AMD EPYC (AVX-512), SmolLM2-135M, as processor time of a whole decode
step, both cores added, median of 9 interleaved runs: at 32 rows of 256 tokens 182 ms with the walk of blocks.py, 102
with this, 72 without any attention; at 8 rows 72, 50 and 39; at one row 31, 26 and 22.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.attention.inputs import PAGE_SIZE, AttentionCalls, AttentionInputs
from jaxserve.attention.latent import BlockLatentAttention
from jaxserve.attention.page_types import SCALE_DTYPE, as_stored, has_scales, quantize, to_stored
from jaxserve.native import library

# XLA_FFI_DataType of the numbers in pages.
NUMBER_TYPES = {
    **{"float32": 11, "float16": 10, "bfloat16": 16},
    **{"int8": 2, "float8_e4m3fn": 20, "float8_e5m2": 19},
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NativePages:
    """The pages of several layers, keys with the position axis last. 8-bit numbers have scales, see page_types.py.

    layer         int32 scalar, the layer that is written and read; None: the first.
    number_type   Static: the type of the numbers.
    """

    key_PLKHZ: Array
    value_PLKZH: Array
    key_scale_PLKZ: Array | None = None
    value_scale_PLKZ: Array | None = None
    layer: Array | None = None
    number_type: Any = field(default=None, metadata={"static": True})

    @property
    def planes(self) -> tuple[Array, ...]:
        """The keys, the values, and the scales of both if they have any."""
        planes = (self.key_PLKHZ, self.value_PLKZH, self.key_scale_PLKZ, self.value_scale_PLKZ)
        return tuple(plane for plane in planes if plane is not None)

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

    def default_page_size(self, num_rows: int, max_tokens: int, dtype: Any) -> int:
        """Return PAGE_SIZE."""
        return PAGE_SIZE

    def max_pages(self, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> int | None:
        """Return None: any number."""
        return None

    def check_calls(self, calls: AttentionCalls) -> None:
        """Accept all calls."""

    def make_pages(
        self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any, num_layers: int = 1
    ) -> NativePages:
        """Return the pages of some layers, all zeros, which take no memory until they are written."""
        first_axes = (num_pages, num_layers, kv_heads)
        shapes = [
            jax.ShapeDtypeStruct((*first_axes, head_dim, page_size), as_stored(dtype)),
            jax.ShapeDtypeStruct((*first_axes, page_size, head_dim), as_stored(dtype)),
        ]
        if has_scales(dtype):
            shapes += [jax.ShapeDtypeStruct((*first_axes, page_size), SCALE_DTYPE)] * 2
        # Declared to have effects, or XLA would make the zeros of one array and copy them for the others.
        planes = jax.ffi.ffi_call("jaxserve_zeros", shapes, has_side_effect=True)()
        return NativePages(*planes, number_type=np.dtype(dtype))

    def write(self, pages: NativePages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> NativePages:
        """Return the pages with the tokens in their slots. Donate pages."""
        (key_TKH, key_scale_TK), (value_TKH, value_scale_TK) = (
            quantize(leaf, pages.number_type) for leaf in (key_TKH, value_TKH)
        )
        keys_values, scales = pages.planes[:2], pages.planes[2:]
        new_scales = (key_scale_TK, value_scale_TK) if scales else ()
        shapes = tuple(jax.ShapeDtypeStruct(plane.shape, plane.dtype) for plane in pages.planes)
        aliases = {0: 0, 1: 1, 6: 2, 7: 3} if scales else {0: 0, 1: 1}
        call = jax.ffi.ffi_call("jaxserve_write", shapes, input_output_aliases=aliases)
        new = (to_stored(key_TKH), to_stored(value_TKH), jnp.asarray(slot_T, jnp.int32))
        planes = call(*keys_values, _index(pages), *new, *scales, *new_scales)
        return NativePages(*planes, layer=pages.layer, number_type=pages.number_type)

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
            *pages.planes[2:],
            number_type=np.float64(NUMBER_TYPES[pages.number_type.name]),
            scale=np.float64(scale),
            softcap=np.float64(softcap or 0.0),
            window=np.float64(window or 0),
        )
        return out_TNH.astype(query_TNH.dtype)


def _index(pages: NativePages) -> Array:
    return jnp.int32(0) if pages.layer is None else pages.layer
