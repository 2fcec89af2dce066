"""Fetches of pages into a ring of blocks in vector memory, as many pages as an item needs and none more."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.mosaic.pages import LANES, MosaicParams

# Places of the cursor, of what is fetched next and of what is computed with next: an item, its page, the blocks before.
FETCHES, USES = (0, 1, 2), (3, 4, 5)
NUM_PLACES = 6
UNROLLED_FETCHES = 4


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
    """The keys and values of one head in a block, and what they are multiplied by, if anything.

    Of J joined heads they lie side by side, key_SL [S, J * L] and value_SV [S, J * V], and there are J scales of each.
    """

    key_SL: Array
    value_SV: Array
    key_scales: tuple[Array, ...] = ()
    value_scales: tuple[Array, ...] = ()


class Block(NamedTuple):
    """A block that was fetched: its item, its first page in the row, its number of pages and its buffer. Scalars."""

    item: Array
    page: Array
    num_pages: Array
    slot: Array


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

    def begin_if(self, is_first: Array) -> None:
        """Start the first fetches, if `is_first`, a bool scalar."""

        @pl.when(is_first)
        def _() -> None:
            for item, page, count in (FETCHES, USES):
                self.cursor[item] = jnp.int32(0)
                self.cursor[page] = self.items.first_page_I[0]
                self.cursor[count] = jnp.int32(0)

        ahead = self.params.num_buffers - self.params.turn_blocks
        jax.lax.fori_loop(0, jnp.where(is_first, ahead, 0), lambda *_: self.fetch_next(), None)

    def fetch_next(self) -> None:
        """Start the fetch of the next block of the next item, if there is one, into the buffer used longest ago."""
        items = self.items
        block = self._advance(FETCHES, self.cursor[FETCHES[0]] < items.count_1[0])
        first = items.row_I[block.item] * items.width + block.page

        def start(index: Array, _: None = None) -> None:
            page = items.table_X[first + index]
            for plane, buffer in zip(self.planes, self.blocks, strict=True):
                source, target = plane.at[page], buffer.at[block.slot, index]
                pltpu.make_async_copy(source, target, self.semaphore_R.at[block.slot]).start()

        def start_some(index: Array, _: None) -> None:
            for offset in range(UNROLLED_FETCHES):
                start(UNROLLED_FETCHES * index + offset)

        num_alone = block.num_pages & (UNROLLED_FETCHES - 1)
        jax.lax.fori_loop(0, jax.lax.shift_right_logical(block.num_pages, 2), start_some, None)
        jax.lax.fori_loop(block.num_pages - num_alone, block.num_pages, start, None)

    def wait_next(self, is_real: Array | None = None, instead: Block | None = None) -> Block:
        """Wait for the next block, and return it.

        is_real   bool scalar; where it is False, `instead` is returned
        """
        block = self._advance(USES, jnp.bool_(True) if is_real is None else is_real)

        def wait_for(index: Array, _: None) -> None:
            for buffer in self.blocks:
                here = buffer.at[block.slot, index]
                pltpu.make_async_copy(here, here, self.semaphore_R.at[block.slot]).wait()

        jax.lax.fori_loop(0, block.num_pages, wait_for, None)
        if is_real is None or instead is None:
            return block
        chosen = (jnp.where(is_real, new, old) for new, old in zip(block, instead, strict=True))
        return Block(*chosen)

    def _advance(self, places: tuple[int, int, int], is_real: Array) -> Block:
        """Return the block at a cursor, and move the cursor behind it; if not `is_real`, one without pages."""
        (item_place, page_place, count_place), block_pages = places, self.params.block_pages
        item, page, last_item = self.cursor[item_place], self.cursor[page_place], self.items.first_page_I.shape[0] - 1
        here, next_item = jnp.minimum(item, last_item), jnp.minimum(item + 1, last_item)
        end, count = self.items.end_page_I[here], self.cursor[count_place]
        is_last = page + block_pages >= end
        next_page = jnp.where(is_last, self.items.first_page_I[next_item], page + block_pages)
        self.cursor[page_place] = jnp.where(is_real, next_page, page)
        self.cursor[item_place] = jnp.where(is_real & is_last, item + 1, item)
        self.cursor[count_place] = jnp.where(is_real, count + 1, count)
        num_pages = jnp.where(is_real, jnp.minimum(block_pages, end - page), 0)
        return Block(here, page, num_pages, count & (self.params.num_buffers - 1))

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
            return HeadBlock(key_SL, value_SV)
        return HeadBlock(key_SL, value_SV, (load_scales(head),), (load_scales(head + params.kv_heads),))

    def load_joined(self, slot: Array, first_head: int, size: int, dtype: Any) -> HeadBlock:
        """Return the keys and the values of params.joined_heads heads, as load_head does of one."""
        heads = range(first_head, first_head + self.params.joined_heads)
        loaded = [self.load_head(slot, head, size, dtype) for head in heads]
        if len(loaded) == 1:
            return loaded[0]
        return HeadBlock(
            jnp.concatenate([each.key_SL for each in loaded], axis=1),
            jnp.concatenate([each.value_SV for each in loaded], axis=1),
            tuple(scale for each in loaded for scale in each.key_scales),
            tuple(scale for each in loaded for scale in each.value_scales),
        )

    def count_tokens(self, block: Block, length: Array) -> Array:
        """Return how many first tokens of a block are of its row, which has `length` tokens, and were fetched."""
        page_size = self.params.page_size
        return jnp.minimum(length - block.page * page_size, block.num_pages * page_size)


def loop_if(condition: Array, function: Callable[[], None]) -> None:
    """Run a function if a condition holds, as a loop of one turn or none: libtpu tells the bundles of loops apart."""
    jax.lax.fori_loop(0, condition.astype(jnp.int32), lambda *_: function(), None)


def keep_values(block: HeadBlock, num_tokens: Array) -> HeadBlock:
    """Return a block with zeros in place of the values of other than the first num_tokens tokens.

    They may be no numbers, and zero times that is none: they are of no token, or of other rows, or what was there
    before any. Keys may stay: their scores are replaced, not multiplied.
    """
    value_SV, size = block.value_SV, len(block.value_SV)
    lane_1S = jax.lax.broadcasted_iota(jnp.int32, (1, size), 1)
    scales = tuple(jnp.where(lane_1S < num_tokens, scale_1S, 0.0) for scale_1S in block.value_scales)
    # As words, because not all TPUs choose among narrow numbers; of the tokens of a word the first is in the low bits.
    per_word = 4 // value_SV.dtype.itemsize
    words = [pltpu.bitcast(each, jnp.int32) for each in jnp.split(value_SV, value_SV.shape[1] // LANES, axis=1)]
    kept_WL = num_tokens - per_word * jax.lax.broadcasted_iota(jnp.int32, words[0].shape, 0)
    low_bits_WL = jnp.where(kept_WL > 0, 2**16 - 1, 0) if per_word > 1 else 0
    mask_WL = jnp.where(kept_WL >= per_word, -1, low_bits_WL)
    kept_SV = [pltpu.bitcast(word_WL & mask_WL, value_SV.dtype) for word_WL in words]
    return block._replace(value_SV=jnp.concatenate(kept_SV, axis=1), value_scales=scales)


def widen(number: Array) -> Array:
    """Return numbers in 32 bits, which all TPUs choose among."""
    return number.astype(jnp.int32 if jnp.issubdtype(number.dtype, jnp.integer) else jnp.float32)
