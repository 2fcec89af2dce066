"""Attention for TPUs: our own Pallas kernels, lowered through Mosaic. Predicted, not measured: no TPU was at hand.

They compile for v5e, v5p and v6e and hold the contract of the backends in JAX's TPU interpreter, with races, unwritten
memory and reads out of bounds looked for. Decode reads the pages that a row sees and no others, and computes in less
time than that takes; prefill is bound by its products, which on v6e fill half of a unit if heads have 128 numbers or
fewer. scripts/device kernels compares them with JAX's own kernel (tpu.py); "auto" takes ours where they hold the pages.
Their limits:

generation   v2, v3 and v4 have too little vector memory, and are refused by name
page table   lies in scalar memory, 1 MiB less 32 KiB: a larger one is refused by name, and pages are as large by
             default as it takes for the table to fit
pages        a power of two of tokens, whole tiles: from 16 on in bfloat16, from 8 on in float32, from 128 on in 8 bits
many heads   a tile of queries is halved until it fits into vector memory; a page of more than 4 MiB is refused by name
heads        of more than 64 numbers are filled up with zeros to whole LANES, smaller ones to half of them
latents      are filled up, too: those of 576 numbers (DeepSeek) take the memory of 640, and the time to read it

Pallas is imported at the first use, because other platforms never need it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.inputs import AttentionCalls, AttentionInputs
from jaxserve.attention.mosaic.attend import TABLE_BYTES, attend, check_table
from jaxserve.attention.mosaic.latent import MosaicLatentAttention
from jaxserve.attention.mosaic.pages import (
    LANES,
    MIN_PAGE_SIZE,
    MosaicConfig,
    MosaicPages,
    check_pages,
    join_heads,
    min_page_size,
    stored_shape,
)
from jaxserve.attention.page_types import SCALE_DTYPE, has_scales, quantize


class MosaicAttention:
    """Attention by Pallas kernels for TPUs.

    interpret   How Pallas interprets the kernels where there is no TPU (InterpretParams); False compiles them.
    config      The sizes that the kernels are tuned by.
    """

    name = "mosaic"
    stacks_layers = False

    def __init__(self, interpret: Any = False, config: MosaicConfig | None = None) -> None:
        self.interpret = interpret
        self.config = config or MosaicConfig()
        self.latent = MosaicLatentAttention(interpret, self.config)

    def default_page_size(self, num_rows: int, max_tokens: int, dtype: Any) -> int:
        """Return the least size from MIN_PAGE_SIZE on that pages of this type may have, and with which a table of so
        many rows fits into scalar memory.
        """
        size = max(MIN_PAGE_SIZE, min_page_size(dtype))
        while size < max_tokens and 4 * num_rows * -(-max_tokens // size) > TABLE_BYTES:
            size *= 2
        return size

    def max_pages(self, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> int | None:
        """Return None: any number."""
        return None

    def check_calls(self, calls: AttentionCalls) -> None:
        """Raise BadConfig if the page table is larger than scalar memory."""
        check_table(calls.rows, calls.width)

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> MosaicPages:
        """Return one layer's pages, all zeros.

        Raises BadConfig if pages are no whole tiles, or larger than vector memory takes, or for float16.
        """
        dtype = jnp.dtype(dtype)
        num_stored, lanes = stored_shape(kv_heads, head_dim)
        number_PXZL = jnp.zeros((num_pages, num_stored, page_size, lanes), jnp.int8 if has_scales(dtype) else dtype)
        scale_PYZ = jnp.zeros((num_pages, 2 * kv_heads, page_size), SCALE_DTYPE) if has_scales(dtype) else None
        return check_pages(MosaicPages(number_PXZL, scale_PYZ, kv_heads, dtype))

    def write(self, pages: MosaicPages, key_TKH: Array, value_TKH: Array, slot_T: Array) -> MosaicPages:
        """Return the pages with the tokens in their slots. Donate pages."""
        from jaxserve.attention.mosaic.write import write

        key_TKH, key_scale_TK = quantize(key_TKH, pages.number_type)
        value_TKH, value_scale_TK = quantize(value_TKH, pages.number_type)
        new_TXL = join_heads(key_TKH, value_TKH)
        if key_scale_TK is None or value_scale_TK is None:
            return write(pages, (new_TXL,), slot_T, interpret=self.interpret)
        scale_TY = jnp.concatenate([key_scale_TK, value_scale_TK], axis=1)
        new_TXL = jax.lax.bitcast_convert_type(new_TXL, jnp.int8)
        return write(pages, (new_TXL, scale_TY), slot_T, interpret=self.interpret)

    def attend(
        self,
        query_TNH: Array,
        pages: MosaicPages,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: Array | None = None,
    ) -> Array:
        """Return softmax(scale * q.k) . v of every query, [T, N, H]; see `AttentionBackend`.

        Raises BadConfig if the page table is larger than scalar memory.
        """
        out_TNL = attend(
            query_TNH,
            pages,
            inputs,
            sinks,
            config=self.config,
            interpret=self.interpret,
            scale=scale,
            window=window,
            softcap=softcap,
        )
        start = LANES // 2 if pages.is_paired else 0
        return out_TNL[..., start : start + query_TNH.shape[2]].astype(query_TNH.dtype)
