"""Attention for CPUs, through XLA: pages for the walk of blocks.py, in the layout that is best on CPUs."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxserve.attention.blocks import attend_blocks
from jaxserve.attention.inputs import PAGE_SIZE, AttentionCalls, AttentionInputs
from jaxserve.attention.latent import BlockLatentAttention
from jaxserve.attention.page_types import as_stored, from_stored, make_scales, quantize, to_stored


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CpuPages:
    """One layer: keys with the position axis last, so that q.k is a plain row-major product.

    Pages of 8-bit numbers have scales, see page_types.py. number_type is static: the type of the numbers.
    """

    key_PKHZ: Array
    value_PKZH: Array
    key_scale_PKZ: Array | None = None
    value_scale_PKZ: Array | None = None
    number_type: Any = field(default=None, metadata={"static": True})

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.key_PKHZ.shape[1]

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.key_PKHZ.shape[3]

    @property
    def value_dim(self) -> int:
        """Numbers of a value head."""
        return self.value_PKZH.shape[3]

    def read_keys(self, page_BX: Array) -> Array:
        """Return key_BXKHZ."""
        return from_stored(self.key_PKHZ[page_BX], self.number_type)

    def read_values(self, page_BX: Array) -> Array:
        """Return value_BXKZH."""
        return from_stored(self.value_PKZH[page_BX], self.number_type)

    def read_scales(self, page_BX: Array) -> tuple[Array, Array] | None:
        """Return the scales of keys and values, both [B, X, K, Z], if they have any."""
        if self.key_scale_PKZ is None or self.value_scale_PKZ is None:
            return None
        return self.key_scale_PKZ[page_BX], self.value_scale_PKZ[page_BX]


class CpuAttention:
    """Attention through XLA on CPUs, for every dtype."""

    name = "cpu"
    stacks_layers = False
    latent = BlockLatentAttention()

    def default_page_size(self, num_rows: int, max_tokens: int, dtype: Any) -> int:
        """Return PAGE_SIZE."""
        return PAGE_SIZE

    def max_pages(self, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> int | None:
        """Return None: any number."""
        return None

    def check_calls(self, calls: AttentionCalls) -> None:
        """Accept all calls."""

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> CpuPages:
        """Return one layer's pages, all zeros."""
        return CpuPages(
            jnp.zeros((num_pages, kv_heads, head_dim, page_size), as_stored(dtype)),
            jnp.zeros((num_pages, kv_heads, page_size, head_dim), as_stored(dtype)),
            *make_scales((num_pages, kv_heads, page_size), dtype),
            number_type=np.dtype(dtype),
        )

    def write(self, pages: CpuPages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> CpuPages:
        """Return the pages with the tokens in their slots. Donate pages."""
        size = pages.key_PKHZ.shape[3]
        page_T, offset_T = slot_T // size, slot_T % size
        key_TKH, key_scale_TK = quantize(key_TKH, pages.number_type)
        value_TKH, value_scale_TK = quantize(value_TKH, pages.number_type)

        def set_scales(plane_PKZ: Array | None, scale_TK: Array | None) -> Array | None:
            return None if plane_PKZ is None else plane_PKZ.at[page_T, :, offset_T].set(scale_TK)

        return CpuPages(
            pages.key_PKHZ.at[page_T, :, :, offset_T].set(to_stored(key_TKH)),
            pages.value_PKZH.at[page_T, :, offset_T, :].set(to_stored(value_TKH)),
            set_scales(pages.key_scale_PKZ, key_scale_TK),
            set_scales(pages.value_scale_PKZ, value_scale_TK),
            number_type=pages.number_type,
        )

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
        return attend_blocks(query_TNH, pages, inputs, scale=scale, window=window, softcap=softcap, sinks=sinks)
