"""What the text of an optimised HLO program says about large arrays and collectives. Imports nothing of JAX."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")
# Not copy-start, with which a TPU brings what it computes with into its vector memory.
MOVES = {"copy", "convert", "transpose", "gather", "all-gather", "all-gather-start"}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?:\()?\w+\[([\d,]*)\]\S* (?:.*?\) )?([\w\-]+)\(")


class Instruction(NamedTuple):
    """An operation and the shape of its result, the first one of a tuple."""

    operation: str
    shape: tuple[int, ...]


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of all computations."""
    for line in text.splitlines():
        if match := _INSTRUCTION.match(line):
            sizes, operation = match.groups()
            yield Instruction(operation, tuple(int(size) for size in sizes.split(",") if size))


def count_collectives(text: str) -> dict[str, int]:
    """Return how many collectives of each kind there are."""
    counts = {name: len(re.findall(rf" {name}(?:-start)?\(", text)) for name in COLLECTIVES}
    return {name: count for name, count in counts.items() if count}


def find_moves(text: str, is_large: Callable[[tuple[int, ...]], bool]) -> dict[str, int]:
    """Return how often arrays with large shapes are copied, converted, transposed or gathered."""
    moves = (each for each in instructions(text) if each.operation in MOVES and is_large(each.shape))
    return dict(Counter(f"{each.operation}{list(each.shape)}" for each in moves))
