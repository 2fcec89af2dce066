"""Attention for CPUs, through XLA: pages for the walk of blocks.py, in the layout that is best on CPUs."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.blocks import attend_blocks
from jaxserve.attention.inputs import PAGE_SIZE, AttentionInputs
from jaxserve.attention.latent import BlockLatentAttention


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CpuPages:
    """One layer: keys with the position axis last, so that q.k is a plain row-major product."""

    key_PKHZ: Array
    value_PKZH: Array

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
        return self.key_PKHZ[page_BX]

    def read_values(self, page_BX: Array) -> Array:
        """Return value_BXKZH."""
        return self.value_PKZH[page_BX]


class CpuAttention:
    """Attention through XLA on CPUs, for every dtype."""

    name = "cpu"
    stacks_layers = False
    latent = BlockLatentAttention()

    def default_page_size(self, num_rows: int, max_tokens: int) -> int:
        """Return PAGE_SIZE."""
        return PAGE_SIZE

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> CpuPages:
        """Return one layer's pages, all zeros."""
        return CpuPages(
            jnp.zeros((num_pages, kv_heads, head_dim, page_size), dtype),
            jnp.zeros((num_pages, kv_heads, page_size, head_dim), dtype),
        )

    def write(self, pages: CpuPages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> CpuPages:
        """Return the pages with the tokens in their slots. Donate pages."""
        size = pages.key_PKHZ.shape[3]
        page_T, offset_T = slot_T // size, slot_T % size
        return CpuPages(
            pages.key_PKHZ.at[page_T, :, :, offset_T].set(key_TKH.astype(pages.key_PKHZ.dtype)),
            pages.value_PKZH.at[page_T, :, offset_T, :].set(value_TKH.astype(pages.value_PKZH.dtype)),
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
