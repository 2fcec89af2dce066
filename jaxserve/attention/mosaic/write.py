"""The write: new keys and values into their slots, in place, by copies of the tiles that they lie in.

A token's row of numbers is less than what memory is written in, so the tiles of all heads around it are fetched, the
tokens put into them, and written back. Tokens in order that share tiles are one run. Runs follow each other through a
ring of tiles, so that fetches, work and writes overlap. What is written to page 0, the slots of padding, is left out:
nobody reads it.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.mosaic.fetch import widen
from jaxserve.attention.mosaic.pages import LANES, MosaicPages, array_bytes, tile_rows
from jaxserve.attention.mosaic.vector_memory import BUFFER_BYTES, usual_or_more

TURN_TOKENS = 128  # tokens of one turn of the grid, or fewer of many heads
NUM_TILES = 8  # runs in vector memory
AHEAD = 4  # of them are being fetched; the others are being written


def write(pages: MosaicPages, new: tuple[Array, ...], slot_T: Array, *, interpret: Any) -> MosaicPages:
    """Return the pages with the numbers of the tokens, new_TXL, in their slots, and their scales, new_TY. Donate pages.

    Tokens whose slots share a tile, or scales of 8-bit numbers a line of LANES, are neighbours in the batch, in the
    order of their slots: those of one row.
    """
    planes, size = pages.planes, pages.page_size
    tiles, per_turn = tile_shapes(planes), fit_turn(len(slot_T), planes)
    span = tiles[0][1]
    missing = -len(slot_T) % per_turn
    slot_T = jnp.pad(jnp.asarray(slot_T), (0, missing))
    number_TXL, *scales = (jnp.pad(each, ((0, missing), *((0, 0),) * (each.ndim - 1))) for each in new)
    wide = [widen(number_TXL), *(jnp.broadcast_to(each[..., None], (*each.shape, LANES)) for each in scales)]
    scalars = _find_runs(slot_T, span, size, per_turn)
    anywhere = [pl.BlockSpec(memory_space=pl.ANY)] * len(planes)
    written = pl.pallas_call(
        functools.partial(_write_kernel, num_planes=len(planes), size=size, span=span),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(len(slot_T) // per_turn,),
            in_specs=[
                *(pl.BlockSpec((per_turn, *each.shape[1:]), lambda turn, *_: (turn, 0, 0)) for each in wide),
                *anywhere,
            ],
            out_specs=anywhere,
            scratch_shapes=[
                *(pltpu.VMEM((NUM_TILES, *tile), plane.dtype) for tile, plane in zip(tiles, planes, strict=True)),
                pltpu.SemaphoreType.DMA((NUM_TILES,)),
                pltpu.SemaphoreType.DMA((NUM_TILES,)),
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(plane.shape, plane.dtype) for plane in planes],
        input_output_aliases={len(scalars) + len(planes) + index: index for index in range(len(planes))},
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("arbitrary",),
            disable_bounds_checks=True,
            vmem_limit_bytes=usual_or_more(write_bytes(per_turn, planes)),
        ),
        interpret=interpret,
        name="page_write",
    )(*scalars, *wide, *planes)
    return replace(pages, number_PXZL=written[0], scale_PYZ=written[1] if len(planes) > 1 else None)


def tile_shapes(planes: tuple[Array, ...]) -> list[tuple[int, ...]]:
    """Return the shapes of what is fetched for a run: of all heads a tile of tokens, or a line of them with scales."""
    numbers, *scales = planes
    span = LANES if scales else tile_rows(numbers.dtype)
    return [(numbers.shape[1], span, numbers.shape[3]), *((scale.shape[1], LANES) for scale in scales)]


def write_bytes(per_turn: int, planes: tuple[Array, ...]) -> int:
    """Return the bytes of the buffers of a write: of two turns' numbers, and of tiles."""
    tiles = tile_shapes(planes)
    new_bytes = sum(array_bytes((per_turn, tile[0], tile[-1]), jnp.float32) for tile in tiles)
    held = zip(tiles, planes, strict=True)
    return 2 * new_bytes + sum(array_bytes((NUM_TILES, *tile), plane.dtype) for tile, plane in held)


def fit_turn(num_tokens: int, planes: tuple[Array, ...]) -> int:
    """Return the tokens of one turn of the grid: TURN_TOKENS, or as many as there are or fit."""
    per_turn = TURN_TOKENS
    while write_bytes(per_turn, planes) > BUFFER_BYTES and per_turn > 1:
        per_turn //= 2
    return min(per_turn, num_tokens)


def _find_runs(slot_T: Array, span: int, size: int, per_turn: int) -> tuple[Array, Array, Array, Array]:
    """Cut the tokens into runs: neighbours in the same `span` slots and the same turn of the grid.

    Returns start_U and end_U, the tokens of each run; first_run_C1, the first run of each turn, and behind the last
    one the number of runs; and slot_T.
    """
    token_T = jnp.arange(len(slot_T), dtype=jnp.int32)
    is_real_T = slot_T >= size
    is_first_T = (token_T % per_turn == 0) | (slot_T % span == 0) | (slot_T != jnp.roll(slot_T, 1) + 1)
    starts_T = is_real_T & is_first_T
    ends_T = is_real_T & (jnp.roll(is_first_T, -1) | (token_T == len(slot_T) - 1))
    start_U, end_U = (jnp.nonzero(each, size=len(slot_T), fill_value=0)[0] for each in (starts_T, ends_T))
    first_run_C = jnp.cumsum(starts_T, dtype=jnp.int32)[per_turn - 1 :: per_turn]
    first_run_C1 = jnp.concatenate([jnp.zeros(1, jnp.int32), first_run_C])
    return start_U.astype(jnp.int32), end_U.astype(jnp.int32) + 1, first_run_C1, slot_T


def _write_kernel(*refs: Any, num_planes: int, size: int, span: int) -> None:
    start_ref, end_ref, first_run_ref, slot_ref = refs[:4]
    new_refs, refs = refs[4 : 4 + num_planes], refs[4 + 2 * num_planes :]
    planes, tiles, (fetch_semaphores, write_semaphores) = refs[:num_planes], refs[num_planes:-2], refs[-2:]
    turn = pl.program_id(0)
    first_token = turn * new_refs[0].shape[0]
    first, end = first_run_ref[turn], first_run_ref[turn + 1]

    def move(run: Array, *, is_fetch: bool, is_start: bool) -> None:
        """Start, or wait for, the copies of a run: of the tiles that its tokens lie in."""
        tile, slot = jax.lax.rem(run, NUM_TILES), slot_ref[start_ref[run]]
        semaphore = (fetch_semaphores if is_fetch else write_semaphores).at[tile]
        page, start = slot // size, pl.multiple_of(jax.lax.rem(slot, size) // span * span, span)
        rows = tile_rows(planes[0].dtype)
        first_row = jax.lax.rem(slot, span)
        end_row = first_row + end_ref[run] - start_ref[run]

        def copy(there: Any, here: Any) -> None:
            copied = pltpu.make_async_copy(*((there, here) if is_fetch else (here, there)), semaphore)
            copied.start() if is_start else copied.wait()

        for row in range(0, span, rows):
            there = planes[0].at[page, :, pl.ds(start + row, rows)]
            is_used = (row < end_row) & (row + rows > first_row)
            pl.when(is_used)(functools.partial(copy, there, tiles[0].at[tile, :, pl.ds(row, rows)]))
        if num_planes > 1:
            copy(planes[1].at[page, :, pl.ds(start, span)], tiles[1].at[tile])

    def start_fetch(run: Array, _: None = None) -> None:
        pl.when(run < end)(lambda: move(run, is_fetch=True, is_start=True))

    def finish(run: Array, _: None = None) -> None:
        move(run, is_fetch=False, is_start=False)

    def run_one(run: Array, _: None) -> None:
        pl.when(run - first >= NUM_TILES - AHEAD)(lambda: finish(run - (NUM_TILES - AHEAD)))
        start_fetch(run + AHEAD)
        move(run, is_fetch=True, is_start=False)
        tile = jax.lax.rem(run, NUM_TILES)

        def insert(token: Array, _: None) -> None:
            row = jax.lax.rem(slot_ref[token], span)
            _insert(tiles[0], tile, row, new_refs[0], token - first_token)
            if num_planes > 1:
                lane_YZ = jax.lax.broadcasted_iota(jnp.int32, tiles[1].shape[1:], 1)
                tiles[1][tile] = jnp.where(lane_YZ == row, new_refs[1][token - first_token], tiles[1][tile])

        jax.lax.fori_loop(start_ref[run], end_ref[run], insert, None)
        move(run, is_fetch=False, is_start=True)

    jax.lax.fori_loop(first, first + AHEAD, start_fetch, None)
    jax.lax.fori_loop(first, end, run_one, None)
    jax.lax.fori_loop(jnp.maximum(first, end - (NUM_TILES - AHEAD)), end, finish, None)


def _insert(tiles_ref: Any, tile: Array, row: Array, new_ref: Any, token: Array) -> None:
    """Put the numbers of one token, new_ref [T, X, L] in 32 bits, into a row of the tiles of every head."""
    heads, _, lanes = tiles_ref.shape[1:]
    rows = tile_rows(tiles_ref.dtype)
    place = pl.ds(pl.multiple_of(row // rows * rows, rows), rows)
    is_row_ZL = jax.lax.broadcasted_iota(jnp.int32, (rows, lanes), 0) == jax.lax.rem(row, rows)
    for head in range(heads):
        new_1L = new_ref[token, pl.ds(head, 1)]
        old_ZL = widen(tiles_ref[tile, head, place])
        tiles_ref[tile, head, place] = jnp.where(is_row_ZL, new_1L, old_ZL).astype(tiles_ref.dtype)
