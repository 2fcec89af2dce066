"""Pages on a TPU as our own kernels read them, and what one call of attention fixes before it runs."""

import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxserve.attention.page_types import has_scales
from jaxserve.errors import BadConfig

LANES = 128
SUBLANES = 8  # rows of a tile of 32-bit numbers
LOG2_E = 1.4426950408889634
UNROLLED_HEADS = 4  # of one turn of prefill: the products of one go on beside the softmax of the one before
MIN_PAGE_SIZE = 32  # by default
MAX_PAGE_BYTES = 4 * 2**20  # a write holds up to eight
MASKED_SCORE = -1e30  # finite: a block that a query does not see is forgotten at the first one that it sees


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MosaicPages:
    """One layer, head-major: the tokens of a page lie together, head by head, in whole tiles.

    A page is one piece of memory, so that one copy fetches it, and the tokens of a head are what the matrix unit takes:
    nothing is moved in vector memory. A token's write is 2K rows apart from each other, which costs a read and a
    write of the tiles that they lie in (write.py); a token is written once and read hundreds of times.

    number_PXZL   X = 2K heads, keys, then values; L is a multiple of LANES, with zeros behind the head. Heads of up to
                  64 numbers are paired: X = K, with the value in the second half of the lanes of its key. Those of 8
                  bits are int8 with the same bits
    scale_PYZ     float32, Y = 2K, those of keys, then of values, for numbers of 8 bits; see page_types.py
    kv_heads      Static, K.
    number_type   Static, the type of the numbers.
    latent_dim    Static; of latent vectors, for which K = X = 1: so many first numbers of a key are its value.
    """

    number_PXZL: Array
    scale_PYZ: Array | None
    kv_heads: int = field(metadata={"static": True})
    number_type: Any = field(metadata={"static": True})
    latent_dim: int | None = field(default=None, metadata={"static": True})

    @property
    def planes(self) -> tuple[Array, ...]:
        """The arrays that a page is fetched from: numbers, and scales if there are any."""
        return (self.number_PXZL,) if self.scale_PYZ is None else (self.number_PXZL, self.scale_PYZ)

    @property
    def is_paired(self) -> bool:
        """Whether a value lies in the lanes of its key."""
        return self.number_PXZL.shape[1] == self.kv_heads

    @property
    def value_lanes(self) -> int:
        """Lanes that values are multiplied in: all, or of latent vectors the first."""
        return self.number_PXZL.shape[3] if self.latent_dim is None else -(-self.latent_dim // LANES) * LANES

    @property
    def page_size(self) -> int:
        """Tokens of a page."""
        return self.number_PXZL.shape[2]


def stored_shape(kv_heads: int, head_dim: int) -> tuple[int, int]:
    """Return X and L of pages of such heads."""
    if 2 * head_dim <= LANES:
        return kv_heads, LANES
    return 2 * kv_heads, -(-head_dim // LANES) * LANES


def join_heads(key_TKH: Array, value_TKH: Array) -> Array:
    """Return keys and values as pages hold them, new_TXL."""
    kv_heads, head_dim = key_TKH.shape[1:]
    num_stored, lanes = stored_shape(kv_heads, head_dim)
    if num_stored == kv_heads:
        half = LANES // 2
        return jnp.concatenate([pad_last(key_TKH, half), pad_last(value_TKH, half)], axis=-1)
    return jnp.concatenate([pad_last(key_TKH, lanes), pad_last(value_TKH, lanes)], axis=1)


def pad_last(array: Array, size: int) -> Array:
    """Return an array with zeros behind its last axis, up to this size."""
    missing = size - array.shape[-1]
    return jnp.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, missing),)) if missing else array


def tile_rows(dtype: Any) -> int:
    """Return the rows of a tile of numbers of this type in vector memory."""
    return SUBLANES * max(1, 4 // jnp.dtype(dtype).itemsize)


def min_page_size(dtype: Any) -> int:
    """Return the least tokens of a page with numbers of this type: a tile of them, and of their scales."""
    return LANES if has_scales(dtype) else tile_rows(dtype)


def check_pages(pages: MosaicPages) -> MosaicPages:
    """Return the pages. Raises BadConfig if they are no whole tiles, or larger than vector memory takes, or float16."""
    dtype, page_size = pages.number_type, pages.page_size
    if dtype == jnp.float16:
        raise BadConfig("attention_backend 'mosaic' does not store keys as float16; try --kv-cache-dtype bfloat16.")
    least = min_page_size(dtype)
    if page_size < least or page_size & (page_size - 1):
        raise BadConfig(
            f"attention_backend 'mosaic' needs pages of a power of two of tokens, {least} or more in {dtype}, and"
            f" not {page_size}; try --block-size {max(least, MIN_PAGE_SIZE)}."
        )
    page_bytes = sum(array_bytes(plane.shape[1:], plane.dtype) for plane in pages.planes)
    if page_bytes > MAX_PAGE_BYTES:
        raise BadConfig(
            f"attention_backend 'mosaic': a page of {page_size} tokens of {pages.kv_heads} key heads takes"
            f" {page_bytes / 2**20:.1f} MiB, and {MAX_PAGE_BYTES // 2**20} MiB are the most; try a smaller"
            " --block-size."
        )
    return pages


def array_bytes(shape: tuple[int, ...], dtype: Any) -> int:
    """Return the bytes of an array in vector memory, where it is whole tiles."""
    *outer, rows, lanes = shape
    least = tile_rows(dtype)
    return math.prod(outer) * -(-rows // least) * least * -(-lanes // LANES) * LANES * jnp.dtype(dtype).itemsize


@dataclass(frozen=True)
class MosaicConfig:
    """Sizes of the kernels, which change their speed, and their rounding.

    block_bytes            the most keys and values of a block
    prefill_tokens         the most tokens of a block of prefill: many, because a block has a cost of its own for every
                           query
    decode_tokens          the most tokens of a block of decode: few, because short rows compute with a whole one
    decode_heads           key heads of the blocks, of one row or of several, that decode computes with at a time: the
                           steps of each wait for each other, and those of all fill the time
    turn_bytes             the most bytes of these blocks
    decode_rows            query heads of a key head from which on decode has blocks as long as prefill, two at a time
    tile_rows              rows of a tile of queries: queries times the heads that share a key head
    part_tokens            lengths of the pieces of a block that a tile of queries sees in part, besides the whole block
    """

    block_bytes: int = 2**21
    prefill_tokens: int = 512
    decode_tokens: int = 256
    decode_heads: int = 64
    turn_bytes: int = 2**22
    decode_rows: int = 32
    tile_rows: int = 512
    part_tokens: tuple[int, ...] = (128, 256, 384)


@dataclass(frozen=True)
class MosaicParams:
    """Static parameters that the kernels share.

    group         query heads of a key head
    lanes         L of the pages
    value_lanes   those of them in which values are multiplied
    is_paired     a value lies in the lanes of its key
    block_pages   pages of a block
    joined_heads  key heads that decode multiplies at once, side by side in the lanes, where one does not fill the unit
    turn_blocks   blocks that are computed with in one turn of the loop; the next ones are on their way
    tile_queries  queries of one tile
    scale         of the scores: with it they are in units of log 2, or, where there is a soft cap, of the cap
    """

    kv_heads: int
    group: int
    page_size: int
    lanes: int
    value_lanes: int
    is_paired: bool
    block_pages: int
    joined_heads: int
    turn_blocks: int
    tile_queries: int
    part_tokens: tuple[int, ...]
    scale: float
    window: int | None
    softcap: float | None
    number_type: Any

    @property
    def num_buffers(self) -> int:
        """Blocks in vector memory."""
        return 2 * self.turn_blocks

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        return self.block_pages * self.page_size

    @property
    def decode_sizes(self) -> tuple[int, ...]:
        """The lengths of the pieces of a block that decode computes with, the whole block last."""
        half = self.block_tokens // 2
        return (
            (half, self.block_tokens) if self.turn_blocks > 1 and half % self.page_size == 0 else (self.block_tokens,)
        )

    @property
    def part_sizes(self) -> tuple[int, ...]:
        """The lengths of the pieces of a block that prefill computes with, the whole block last."""
        sizes = (size for size in self.part_tokens if size < self.block_tokens and size % self.page_size == 0)
        return (*sizes, self.block_tokens)
