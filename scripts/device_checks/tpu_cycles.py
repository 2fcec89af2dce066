"""Bundles of a step or a prompt on a TPU, counted from the loops of a compiled kernel."""

import math
from dataclasses import dataclass
from typing import Any

from scripts.device_checks.bundles import Loop

PAGE_SIZE = 32


def _busiest(kernel: Loop) -> Loop:
    """Return the innermost loop with the most products."""
    return max(kernel.walk(), key=lambda loop: (loop.products, loop.depth))


def _parent(loop: Loop) -> Loop:
    assert loop.parent is not None
    return loop.parent


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel, and the sizes that it was compiled with.

    block_tokens   of one turn of its loop
    tile           rows of one turn of the grid of decode; queries of one of prefill
    params         what our kernels are called with; None for JAX's
    """

    loops: Loop
    block_tokens: int
    tile: int
    params: Any = None

    def decode_cycles(self, rows: int, context: int) -> tuple[float, int]:
        """Return the bundles of a step, and the tokens that it fetches."""
        busiest, blocks = _busiest(self.loops), -(-context // self.block_tokens)
        if self.params is None:
            row = _parent(busiest)
            per_row = row.bundles + blocks * busiest.bundles
            return self.loops.bundles + rows * per_row, rows * blocks * self.block_tokens
        step, at_once = _parent(busiest), self.params.turn_blocks
        turn, fetches = _parent(step), step.inner[0] if at_once > 1 else Loop(0, None, inner=step.inner[:2])
        sizes = [loop for loop in step.inner if loop.products]
        wait = [loop for loop in step.inner if not loop.products][-1]
        lengths = [min(self.block_tokens, context - start) for start in range(0, context, self.block_tokens)]
        in_turn, cycles = lengths * min(rows, self.tile), float(turn.bundles)
        for start in range(0, len(in_turn), at_once):
            taken = in_turn[start : start + at_once]
            size = next(index for index, size in enumerate(self.params.decode_sizes) if max(taken) <= size)
            cycles += step.bundles + at_once * fetches.bundles + sizes[size].bundles
            cycles += sum(self._page_cycles(fetches.inner, wait, -(-length // PAGE_SIZE)) for length in taken)
        return self.loops.bundles + -(-rows // self.tile) * cycles, rows * -(-context // PAGE_SIZE) * PAGE_SIZE

    def _page_cycles(self, fetches: list[Loop], wait: Loop, pages: int) -> int:
        """Return the bundles of the fetches of the pages of a block, and of the waits for them."""
        from jaxserve.attention.mosaic.fetch import UNROLLED_FETCHES

        together, alone = divmod(pages, UNROLLED_FETCHES)
        return together * fetches[0].bundles + alone * fetches[-1].bundles + pages * wait.bundles

    def prefill_cycles(self, tokens: int, kv_heads: int) -> tuple[float, int]:
        """Return the bundles of a prompt, and the tokens that its tiles fetch."""
        tiles, cycles, fetched = -(-tokens // self.tile), float(self.loops.bundles), 0
        if self.params is None:
            block = _busiest(self.loops)
            blocks = tiles * -(-tokens // self.block_tokens)
            per_tile = _parent(block).bundles + _parent(_parent(block)).bundles
            return cycles + tiles * per_tile + blocks * block.bundles, blocks * self.block_tokens
        from jaxserve.attention.mosaic.pages import UNROLLED_HEADS

        turns = kv_heads // math.gcd(kv_heads, UNROLLED_HEADS)
        sizes = [loop for loop in self.loops.walk() if loop.products and not loop.inner]
        sizes = sizes if turns == 1 else [_parent(loop) for loop in sizes]
        block = _parent(sizes[0])
        turn, others = _parent(block), [loop for loop in block.inner if not any(each.products for each in loop.walk())]
        added = [size.bundles + turns * sum(loop.bundles for loop in size.inner) for size in sizes]
        finish = turn.bundles + (turns * turn.inner[-1].bundles if turns > 1 else 0)
        for tile in range(tiles):
            first, end = tile * self.tile, min(tokens, (tile + 1) * self.tile)
            cycles += finish
            for start in range(0, end, self.block_tokens):
                seen = min(self.block_tokens, end - start)
                part = next(index for index, size in enumerate(self.params.part_sizes) if seen <= size)
                is_whole = start + self.block_tokens <= first + 1
                pages = -(-seen // PAGE_SIZE)
                cycles += block.bundles + added[0 if is_whole else 1 + part]
                cycles += self._page_cycles(others[:-1], others[-1], pages)
                fetched += pages * PAGE_SIZE
        return cycles, fetched

    def write_cycles(self, tokens: int) -> float:
        """Return the bundles of a write of single tokens."""
        run = max(self.loops.inner, key=lambda loop: loop.bundles if loop.inner else 0)
        return self.loops.bundles + tokens * (run.bundles + run.inner[0].bundles)
