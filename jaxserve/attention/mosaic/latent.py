"""Latent vectors in the pages of our TPU kernels: one key head, whose first numbers are its value.

The queries are absorbed: they are multiplied with latents as they are stored, and all of them share the one key head,
so that a page is read once for all heads, keys and values together.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxserve.attention.inputs import AttentionCalls, AttentionInputs
from jaxserve.attention.mosaic.attend import attend, check_table
from jaxserve.attention.mosaic.pages import LANES, MosaicConfig, MosaicPages, check_pages, pad_last
from jaxserve.attention.page_types import check_latent_type


class MosaicLatentAttention:
    """Latent attention by Pallas kernels for TPUs.

    interpret   How Pallas interprets the kernels where there is no TPU (InterpretParams); False compiles them.
    config      The sizes that the kernels are tuned by.
    """

    def __init__(self, interpret: Any = False, config: MosaicConfig | None = None) -> None:
        self.interpret = interpret
        self.config = config or MosaicConfig()

    def check_calls(self, calls: AttentionCalls) -> None:
        """Raise BadConfig if the page table is larger than scalar memory."""
        check_table(calls.rows, calls.width)

    def make_pages(self, num_pages: int, page_size: int, latent_dim: int, rotary_dim: int, dtype: Any) -> MosaicPages:
        """Return one layer's pages, all zeros; a token's numbers are filled up to whole LANES.

        Raises BadConfig if pages are no whole tiles, or larger than vector memory takes, or for 8-bit types.
        """
        check_latent_type(dtype)
        lanes = -(-(latent_dim + rotary_dim) // LANES) * LANES
        number_PXZL = jnp.zeros((num_pages, 1, page_size, lanes), dtype)
        return check_pages(MosaicPages(number_PXZL, None, 1, jnp.dtype(dtype), latent_dim))

    def write(self, pages: MosaicPages, latent_TC: Array, slot_T: Array) -> MosaicPages:
        """Return the pages with each token's numbers in its slot. Donate pages."""
        from jaxserve.attention.mosaic.write import write

        new_TXL = pad_last(latent_TC.astype(pages.number_type), pages.number_PXZL.shape[3])[:, None]
        return write(pages, (new_TXL,), slot_T, interpret=self.interpret)

    def attend(self, query_TNC: Array, pages: MosaicPages, inputs: AttentionInputs, *, scale: float) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, latent_dim]; see `LatentBackend`.

        Raises BadConfig if the page table is larger than scalar memory.
        """
        out_TNV = attend(query_TNC, pages, inputs, config=self.config, interpret=self.interpret, scale=scale)
        return out_TNV[..., : pages.latent_dim].astype(query_TNC.dtype)
