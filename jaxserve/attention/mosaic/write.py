"""The write: new keys and values into their slots, in place, by copies of the tiles that they lie in.

A token's row of numbers is less than what memory is written in, so the tiles of all heads around it are fetched, the
tokens put into them, and written back. Tokens in order that share tiles are one run. Runs follow each other through a
ring of tiles, so that fetches, work and writes overlap. What is written to page 0, the slots of padding, is left out:
nobody reads it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.mosaic.pages import MosaicPages, tile_rows

TURN_TOKENS = 128  # tokens of one turn of the grid
NUM_TILES = 8  # runs in vector memory
AHEAD = 4  # of them are being fetched; the others are being written


def write(pages: MosaicPages, new_TXL: Array, slot_T: Array, *, interpret: Any) -> MosaicPages:
    """Return the pages with the numbers of the tokens in their slots. Donate pages."""
    plane_PXZL = pages.number_PXZL
    size, rows = plane_PXZL.shape[2], tile_rows(plane_PXZL.dtype)
    num_tokens = len(slot_T)
    per_turn = min(TURN_TOKENS, num_tokens)
    missing = -num_tokens % per_turn
    slot_T, new_TXL = jnp.pad(jnp.asarray(slot_T), (0, missing)), jnp.pad(new_TXL, ((0, missing), (0, 0), (0, 0)))
    scalars = _find_runs(slot_T, rows, size, per_turn)
    heads, lanes = new_TXL.shape[1:]
    written = pl.pallas_call(
        functools.partial(_write_kernel, size=size, rows=rows),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(len(slot_T) // per_turn,),
            in_specs=[
                pl.BlockSpec((per_turn, heads, lanes), lambda turn, *_: (turn, 0, 0)),
                pl.BlockSpec(memory_space=pl.ANY),
            ],
            out_specs=pl.BlockSpec(memory_space=pl.ANY),
            scratch_shapes=[
                pltpu.VMEM((NUM_TILES, heads, rows, lanes), plane_PXZL.dtype),
                pltpu.SemaphoreType.DMA((NUM_TILES,)),
                pltpu.SemaphoreType.DMA((NUM_TILES,)),
            ],
        ),
        out_shape=jax.ShapeDtypeStruct(plane_PXZL.shape, plane_PXZL.dtype),
        input_output_aliases={len(scalars) + 1: 0},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",), disable_bounds_checks=True),
        interpret=interpret,
        name="page_write",
    )(*scalars, new_TXL.astype(jnp.float32), plane_PXZL)
    return MosaicPages(written, pages.kv_heads)


def _find_runs(slot_T: Array, rows: int, size: int, per_turn: int) -> tuple[Array, Array, Array, Array]:
    """Cut the tokens into runs: neighbours in the same tiles and the same turn of the grid.

    Returns start_U and end_U, the tokens of each run; first_run_C1, the first run of each turn, and behind the last
    one the number of runs; and slot_T.
    """
    token_T = jnp.arange(len(slot_T), dtype=jnp.int32)
    is_real_T = slot_T >= size
    is_first_T = (token_T % per_turn == 0) | (slot_T % rows == 0) | (slot_T != jnp.roll(slot_T, 1) + 1)
    starts_T = is_real_T & is_first_T
    ends_T = is_real_T & (jnp.roll(is_first_T, -1) | (token_T == len(slot_T) - 1))
    start_U, end_U = (jnp.nonzero(each, size=len(slot_T), fill_value=0)[0] for each in (starts_T, ends_T))
    first_run_C = jnp.cumsum(starts_T, dtype=jnp.int32)[per_turn - 1 :: per_turn]
    first_run_C1 = jnp.concatenate([jnp.zeros(1, jnp.int32), first_run_C])
    return start_U.astype(jnp.int32), end_U.astype(jnp.int32) + 1, first_run_C1, slot_T


def _write_kernel(
    start_ref: Any,
    end_ref: Any,
    first_run_ref: Any,
    slot_ref: Any,
    new_ref: Any,
    _: Any,
    plane_ref: Any,
    tiles_ref: Any,
    fetch_semaphores: Any,
    write_semaphores: Any,
    *,
    size: int,
    rows: int,
) -> None:
    turn = pl.program_id(0)
    first_token = turn * new_ref.shape[0]
    first, end = first_run_ref[turn], first_run_ref[turn + 1]

    def place(run: Array) -> Any:
        slot = slot_ref[start_ref[run]]
        start = pl.multiple_of(jax.lax.rem(slot, size) // rows * rows, rows)
        return plane_ref.at[slot // size, :, pl.ds(start, rows)]

    def fetch(run: Array) -> Any:
        tile = jax.lax.rem(run, NUM_TILES)
        return pltpu.make_async_copy(place(run), tiles_ref.at[tile], fetch_semaphores.at[tile])

    def put(run: Array) -> Any:
        tile = jax.lax.rem(run, NUM_TILES)
        return pltpu.make_async_copy(tiles_ref.at[tile], place(run), write_semaphores.at[tile])

    def start_fetch(run: Array, _: None = None) -> None:
        pl.when(run < end)(lambda: fetch(run).start())

    def run_one(run: Array, _: None) -> None:
        pl.when(run - first >= NUM_TILES - AHEAD)(lambda: put(run - (NUM_TILES - AHEAD)).wait())
        start_fetch(run + AHEAD)
        fetch(run).wait()
        tile = jax.lax.rem(run, NUM_TILES)

        def insert(token: Array, _: None) -> None:
            row = jax.lax.rem(slot_ref[token], rows)
            _insert(tiles_ref, tile, row, new_ref, token - first_token)

        jax.lax.fori_loop(start_ref[run], end_ref[run], insert, None)
        put(run).start()

    jax.lax.fori_loop(first, first + AHEAD, start_fetch, None)
    jax.lax.fori_loop(first, end, run_one, None)
    last = jnp.maximum(first, end - (NUM_TILES - AHEAD))
    jax.lax.fori_loop(last, end, lambda run, _: put(run).wait(), None)


def _insert(tiles_ref: Any, tile: Array, row: Array, new_ref: Any, token: Array) -> None:
    """Put the numbers of one token, new_ref float32 [T, X, L], into a row of the tiles of every head."""
    heads, rows, lanes = tiles_ref.shape[1:]
    is_row = jax.lax.broadcasted_iota(jnp.int32, (rows, lanes), 0) == row
    for head in range(heads):
        new_1L = new_ref[token, pl.ds(head, 1)]
        old = tiles_ref[tile, head].astype(jnp.float32)
        tiles_ref[tile, head] = jnp.where(is_row, new_1L, old).astype(tiles_ref.dtype)
