"""Pages of latent vectors, and attention over them through XLA, on any device.

A layer with latent attention keeps one vector a token: [latent, rotated part of the key]. All query heads read it as
their key, and its first numbers as their value, so it is one key head whose values are part of its keys, and lies in
the pages once.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.blocks import attend_blocks
from jaxserve.attention.inputs import AttentionCalls, AttentionInputs
from jaxserve.attention.page_types import check_latent_type
from jaxserve.layers.linear import matmul_precision


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LatentPages:
    """One layer: a token's numbers lie together, so that a write is one contiguous row.

    latent_PZC   C numbers a token: the latent, the rotated part, and zeros where the device wants whole lanes
    latent_dim   Static: so many of them are the latent
    """

    latent_PZC: Array
    latent_dim: int = field(metadata={"static": True})

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values: one."""
        return 1

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.latent_PZC.shape[1]

    @property
    def value_dim(self) -> int:
        """Numbers of the value, which is the latent."""
        return self.latent_dim

    def read_keys(self, page_BX: Array) -> Array:
        """Return key_BXKHZ."""
        return self.latent_PZC[page_BX].swapaxes(-1, -2)[:, :, None]

    def read_values(self, page_BX: Array) -> Array:
        """Return value_BXKZH."""
        return self.latent_PZC[page_BX][:, :, None, :, : self.latent_dim]

    def read_scales(self, page_BX: Array) -> None:
        """Return None: there are none."""


@dataclass(frozen=True)
class BlockLatentAttention:
    """Latent attention through XLA, block by block of the page table, as in blocks.py.

    lanes   The numbers of a token are filled up to a multiple of this.
    """

    lanes: int = 1

    def check_calls(self, calls: AttentionCalls) -> None:
        """Accept all calls."""

    def make_pages(self, num_pages: int, page_size: int, latent_dim: int, rotary_dim: int, dtype: Any) -> LatentPages:
        """Return one layer's pages, all zeros. Raises BadConfig for 8-bit types."""
        check_latent_type(dtype)
        stored_dim = -(-(latent_dim + rotary_dim) // self.lanes) * self.lanes
        return LatentPages(jnp.zeros((num_pages, page_size, stored_dim), dtype), latent_dim)

    def write(self, pages: LatentPages, latent_TC: Array, slot_T: Array) -> LatentPages:
        """Return the pages with each token's numbers in its slot. Donate pages."""
        array_PZC, size = pages.latent_PZC, pages.page_size
        new_TC = _fill(latent_TC, array_PZC.shape[2]).astype(array_PZC.dtype)
        return LatentPages(array_PZC.at[slot_T // size, slot_T % size].set(new_TC), pages.latent_dim)

    def attend(self, query_TNC: Array, pages: LatentPages, inputs: AttentionInputs, *, scale: float) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, latent_dim]; see `LatentBackend`."""
        query_TNC = _fill(query_TNC, pages.latent_PZC.shape[2])
        return attend_blocks(query_TNC, pages, inputs, scale=scale, precision=matmul_precision(query_TNC.dtype))


def _fill(array: Array, size: int) -> Array:
    missing = size - array.shape[-1]
    return jnp.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, missing),)) if missing else array
