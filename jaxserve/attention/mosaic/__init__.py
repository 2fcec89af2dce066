"""Attention for TPUs: our own Pallas kernels, lowered through Mosaic. Predicted, not measured: no TPU was at hand.

They compile for v5e, v5p and v6e and hold the contract of the backends in JAX's TPU interpreter, with races, unwritten
memory and reads out of bounds looked for. Decode reads the pages that a row sees and no others, and computes in less
time than that takes; prefill is bound by its products on v5e. scripts/device kernels compares them with JAX's own
kernel (tpu.py). Their limits:

page table   lies in scalar memory, 1 MiB less 32 KiB: a larger one is refused by name, and pages are as large by
             default as it takes for the table to fit
pages        a power of two of tokens, whole tiles: from 16 on in bfloat16, from 8 on in float32, from 128 on in 8 bits
many heads   a tile of queries is halved until it fits into vector memory; a page of more than 4 MiB is refused by name
heads        of more than 64 numbers are filled up with zeros to whole LANES, smaller ones to half of them

Pallas is imported at the first use, because other platforms never need it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.inputs import AttentionInputs
from jaxserve.attention.latent import BlockLatentAttention
from jaxserve.attention.mosaic.pages import (
    LANES,
    LOG2_E,
    SUBLANES,
    MosaicConfig,
    MosaicPages,
    MosaicParams,
    join_heads,
    min_page_size,
    pad_last,
    stored_shape,
)
from jaxserve.attention.mosaic.vector_memory import MAX_PAGE_BYTES, array_bytes, fit_prefill
from jaxserve.attention.page_types import SCALE_DTYPE, has_scales, quantize
from jaxserve.errors import BadConfig

TABLE_BYTES = 2**20 - 2**15  # scalar memory of a core is 1 MiB on v5e and later; the kernels need some of it
MIN_PAGE_SIZE = 32


class MosaicAttention:
    """Attention by Pallas kernels for TPUs.

    interpret   How Pallas interprets the kernels where there is no TPU (InterpretParams); False compiles them.
    config      The sizes that the kernels are tuned by.
    """

    name = "mosaic"
    stacks_layers = False
    latent = BlockLatentAttention(LANES)

    def __init__(self, interpret: Any = False, config: MosaicConfig | None = None) -> None:
        self.interpret = interpret
        self.config = config or MosaicConfig()

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

    def make_pages(self, num_pages: int, page_size: int, kv_heads: int, head_dim: int, dtype: Any) -> MosaicPages:
        """Return one layer's pages, all zeros.

        Raises BadConfig if pages are no whole tiles, or larger than vector memory takes, or for float16.
        """
        dtype = jnp.dtype(dtype)
        if dtype == jnp.float16:
            raise BadConfig("attention_backend 'mosaic' does not store keys as float16; try --kv-cache-dtype bfloat16.")
        least = min_page_size(dtype)
        if page_size < least or page_size & (page_size - 1):
            raise BadConfig(
                f"attention_backend 'mosaic' needs pages of a power of two of tokens, {least} or more in {dtype}, and"
                f" not {page_size}; try --block-size {max(least, MIN_PAGE_SIZE)}."
            )
        num_stored, lanes = stored_shape(kv_heads, head_dim)
        number_PXZL = jnp.zeros((num_pages, num_stored, page_size, lanes), jnp.int8 if has_scales(dtype) else dtype)
        scale_PYZ = jnp.zeros((num_pages, 2 * kv_heads, page_size), SCALE_DTYPE) if has_scales(dtype) else None
        pages = MosaicPages(number_PXZL, scale_PYZ, kv_heads, dtype)
        page_bytes = sum(array_bytes(plane.shape[1:], plane.dtype) for plane in pages.planes)
        if page_bytes > MAX_PAGE_BYTES:
            raise BadConfig(
                f"attention_backend 'mosaic': a page of {page_size} tokens of {kv_heads} key heads takes"
                f" {page_bytes / 2**20:.1f} MiB, and {MAX_PAGE_BYTES // 2**20} MiB are the most; try a smaller"
                " --block-size."
            )
        return pages

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
        from jaxserve.attention.mosaic.decode import decode
        from jaxserve.attention.mosaic.prefill import prefill

        rows, width = inputs.page_table_BW.shape
        if 4 * rows * width > TABLE_BYTES:
            raise BadConfig(
                f"attention_backend 'mosaic': a page table of {rows} rows x {width} pages does not fit into the 1 MiB"
                " of scalar memory; try a larger --block-size, or a smaller --max-model-len or --max-num-seqs."
            )
        num_tokens, num_heads, head_dim = query_TNH.shape
        params = self.make_params(
            query_TNH, pages, inputs, scale=scale, window=window, softcap=softcap, has_sinks=sinks is not None
        )
        query_TNL = pad_last(query_TNH.astype(_query_type(query_TNH, pages)), params.lanes)
        query_TKGL = query_TNL.reshape(num_tokens, params.kv_heads, -1, params.lanes)
        sinks_KG = None if sinks is None else LOG2_E * sinks.astype(jnp.float32).reshape(params.kv_heads, -1)
        attend = decode if inputs.max_queries_per_row == 1 else prefill
        out_TKGL = attend(query_TKGL, pages, inputs, sinks_KG, params=params, interpret=self.interpret)
        start = LANES // 2 if params.is_paired else 0
        out_TKGH = out_TKGL[..., start : start + head_dim].astype(query_TNH.dtype)
        return out_TKGH.reshape(num_tokens, num_heads, head_dim)

    def make_params(
        self,
        query_TNH: Array,
        pages: MosaicPages,
        inputs: AttentionInputs,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        has_sinks: bool = False,
    ) -> MosaicParams:
        """Return what a call fixes: blocks that fit into a row, tiles that fit into the queries of a row, and both into
        vector memory.
        """
        _, num_stored, page_size, lanes = pages.number_PXZL.shape
        is_decode = inputs.max_queries_per_row == 1
        page_bytes = num_stored * page_size * lanes * pages.number_PXZL.dtype.itemsize
        most_bytes = self.config.decode_block_bytes if is_decode else self.config.prefill_block_bytes
        block_pages = _floor_power(min(inputs.page_table_BW.shape[1], most_bytes // page_bytes))
        group = query_TNH.shape[1] // pages.kv_heads
        tile_queries = _floor_power(self.config.tile_rows // group)
        params = MosaicParams(
            kv_heads=pages.kv_heads,
            group=group,
            page_size=page_size,
            lanes=lanes,
            is_paired=pages.is_paired,
            block_pages=block_pages,
            num_buffers=self.config.num_buffers,
            tile_queries=1 if is_decode else min(tile_queries, max(SUBLANES * 2, len(query_TNH))),
            part_tokens=tuple(self.config.part_tokens),
            scale=scale * LOG2_E if softcap is None else scale / softcap,
            window=window,
            softcap=softcap,
            number_type=pages.number_type,
        )
        return params if is_decode else fit_prefill(params, _query_type(query_TNH, pages), pages.planes, has_sinks)


def _query_type(query_TNH: Array, pages: MosaicPages) -> Any:
    """Return the type that queries are multiplied in."""
    return query_TNH.dtype if has_scales(pages.number_type) else pages.number_type


def _floor_power(number: int) -> int:
    """Return the greatest power of two up to a number; 1 if there is none."""
    return 1 << max(0, number.bit_length() - 1)
