"""Fetches of pages into a ring of blocks in vector memory, as many pages as an item needs and none more."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.mosaic.pages import MosaicParams

# Places of the cursor: what is fetched next, and how many blocks were fetched and computed with.
ITEM, PAGE, FETCHED, USED = range(4)
NUM_PLACES = 4


def ring_shapes(planes: tuple[Array, ...], params: MosaicParams) -> tuple[Any, ...]:
    """Return what a ring needs of memory: the blocks of each plane, their semaphores and the cursor."""
    blocks = (params.num_buffers, params.block_pages)
    return (
        *(pltpu.VMEM((*blocks, *plane.shape[1:]), plane.dtype) for plane in planes),
        pltpu.SemaphoreType.DMA((params.num_buffers,)),
        pltpu.SMEM((NUM_PLACES,), jnp.int32),
    )


@dataclass(frozen=True)
class Items:
    """References to what there is to compute, item after item, in scalar memory.

    row_I, first_page_I, end_page_I   the pages that an item sees are row_I's, first_page_I to end_page_I - 1, at least
                                      one
    count_1                           the number of items
    table_X                           the page table, row by row, `width` pages each
    """

    row_I: Any
    first_page_I: Any
    end_page_I: Any
    count_1: Any
    table_X: Any
    width: int

    @classmethod
    def read(cls, refs: tuple[Any, ...], width: int) -> "Items":
        """Return the first five references, in order."""
        row_I, first_page_I, end_page_I, count_1, table_X, *_ = refs
        return cls(row_I, first_page_I, end_page_I, count_1, table_X, width)


class HeadBlock(NamedTuple):
    """The keys and values of one head in a block, and what they are multiplied by, if anything."""

    key_SL: Array
    value_SV: Array
    key_scale_1S: Array | None
    value_scale_1S: Array | None


@dataclass(frozen=True)
class Ring:
    """References to the ring: the pages in HBM, blocks of them in vector memory, and what counts them.

    planes        of the pages in HBM, [P, ...] each: numbers, and their scales if they have any
    blocks        of each plane, [R, C, ...]: R = num_buffers blocks of C = block_pages pages
    semaphore_R   of the fetches
    cursor        int32 [NUM_PLACES], in scalar memory
    """

    items: Items
    planes: tuple[Any, ...]
    blocks: tuple[Any, ...]
    semaphore_R: Any
    cursor: Any
    params: MosaicParams

    def begin(self) -> None:
        """Start the first fetches."""
        self.cursor[ITEM] = jnp.int32(0)
        self.cursor[PAGE] = self.items.first_page_I[0]
        self.cursor[FETCHED] = jnp.int32(0)
        self.cursor[USED] = jnp.int32(0)
        for _ in range(self.params.num_buffers - 1):
            self.fetch_next()

    def fetch_next(self) -> None:
        """Start the fetch of the next block of the next item, if there is one, into the buffer used longest ago."""
        items, item = self.items, self.cursor[ITEM]

        @pl.when(item < items.count_1[0])
        def _() -> None:
            page, end = self.cursor[PAGE], items.end_page_I[item]
            slot = jax.lax.rem(self.cursor[FETCHED], self.params.num_buffers)
            first = items.row_I[item] * items.width + page

            def start(index: Array, _: None) -> None:
                page = items.table_X[first + index]
                for plane, block in zip(self.planes, self.blocks, strict=True):
                    source, target = plane.at[page], block.at[slot, index]
                    pltpu.make_async_copy(source, target, self.semaphore_R.at[slot]).start()

            jax.lax.fori_loop(0, jnp.minimum(self.params.block_pages, end - page), start, None)
            next_page = page + self.params.block_pages
            is_last = next_page >= end
            next_item = jnp.minimum(item + 1, items.first_page_I.shape[0] - 1)
            self.cursor[PAGE] = jnp.where(is_last, items.first_page_I[next_item], next_page)
            self.cursor[ITEM] = jnp.where(is_last, item + 1, item)
            self.cursor[FETCHED] += 1

    def wait(self, num_pages: Array) -> Array:
        """Wait for the next block, of so many pages, and return its place in the ring."""
        slot = jax.lax.rem(self.cursor[USED], self.params.num_buffers)
        self.cursor[USED] += 1
        is_full = num_pages == self.params.block_pages

        def wait_for(*place: Array) -> None:
            for block in self.blocks:
                here = block.at[place]
                pltpu.make_async_copy(here, here, self.semaphore_R.at[slot]).wait()

        pl.when(is_full)(lambda: wait_for(slot))

        @pl.when(jnp.logical_not(is_full))
        def _() -> None:
            jax.lax.fori_loop(0, num_pages, lambda index, _: wait_for(slot, index), None)

        return slot

    def load_head(self, slot: Array, head: Array | int, size: int, dtype: Any) -> HeadBlock:
        """Return the keys and the values of one head, in this type: of the first `size` tokens of a block."""
        params, pages = self.params, size // self.params.page_size

        def load(index: Array | int) -> Array:
            number_SL = self.blocks[0][slot, pl.ds(0, pages), index].reshape(size, params.lanes)
            if number_SL.dtype != params.number_type:
                number_SL = pltpu.bitcast(number_SL, params.number_type)
            return number_SL.astype(dtype)

        def load_scales(index: Array | int) -> Array:
            lines = [self.blocks[1][slot, page, pl.ds(index, 1)] for page in range(pages)]
            return jnp.concatenate(lines, axis=1) if len(lines) > 1 else lines[0]

        key_SL = load(head)
        value_SV = key_SL[:, : params.value_lanes] if params.is_paired else load(head + params.kv_heads)
        if len(self.blocks) == 1:
            return HeadBlock(key_SL, value_SV, None, None)
        return HeadBlock(key_SL, value_SV, load_scales(head), load_scales(head + params.kv_heads))

    def clear_behind(self, slot: Array, page: Array, num_pages: Array, length: Array) -> None:
        """Put zeros in place of the values behind a row's last token, in a block of its pages from `page` on.

        They may be no numbers, and zero times that is none: neither behind the token in its page, nor in the places
        behind the num_pages that were fetched, which hold pages of other rows, or what was there before any. Keys may
        stay: their scores are replaced, not multiplied.
        """
        self._clear_unfetched(slot, num_pages)
        params = self.params
        index, used = jax.lax.div(length, params.page_size) - page, jax.lax.rem(length, params.page_size)

        @pl.when((index >= 0) & (index < num_pages) & (used > 0))
        def _() -> None:
            first_value = 0 if params.is_paired else params.kv_heads
            is_used_ZL = jax.lax.broadcasted_iota(jnp.int32, (params.page_size, params.lanes), 0) < used
            for head in range(params.kv_heads):
                place = (slot, index, first_value + head)
                number_ZL = self.blocks[0][place]
                wide_ZL = widen(number_ZL)
                self.blocks[0][place] = jnp.where(is_used_ZL, wide_ZL, jnp.zeros_like(wide_ZL)).astype(number_ZL.dtype)
            if len(self.blocks) > 1:
                scale_YZ = self.blocks[1][slot, index]
                is_used_YZ = jax.lax.broadcasted_iota(jnp.int32, scale_YZ.shape, 1) < used
                self.blocks[1][slot, index] = jnp.where(is_used_YZ, scale_YZ, 0.0)

    def _clear_unfetched(self, slot: Array, num_pages: Array) -> None:
        params, (numbers, *scales) = self.params, self.blocks
        value_heads = pl.ds(0 if params.is_paired else params.kv_heads, params.kv_heads)

        def clear(index: Array, _: None) -> None:
            numbers[slot, index, value_heads] = jnp.zeros((params.kv_heads, *numbers.shape[3:]), numbers.dtype)
            for scale in scales:
                scale[slot, index] = jnp.zeros(scale.shape[2:], scale.dtype)

        if params.block_pages > 1:
            jax.lax.fori_loop(num_pages, params.block_pages, clear, None)


def widen(number: Array) -> Array:
    """Return numbers in 32 bits, which all TPUs choose among."""
    return number.astype(jnp.int32 if jnp.issubdtype(number.dtype, jnp.integer) else jnp.float32)
