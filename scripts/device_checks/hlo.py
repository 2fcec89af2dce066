"""What the text of an optimised HLO program says about large arrays and collectives. Imports nothing of JAX."""

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

# Not copy-start, with which a TPU brings what it computes with into its vector memory.
MOVES = {"copy", "convert", "transpose", "gather", "all-gather", "all-gather-start"}
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?:\()?\w+\[([\d,]*)\]\S* (?:.*?\) )?([\w\-]+)\(")

_COLLECTIVE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\("
)
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
ITEM_BYTES = {
    **{"bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s8": 1, "u8": 1, "pred": 1, "s64": 8, "u64": 8, "f64": 8},
    **{"f8e4m3fn": 1, "f8e5m2": 1},
}
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
FUSED = re.compile(r"(?:fusion|reduce|map|scatter|sort)\(.*(?:calls|to_apply)=%?([\w.\-]+)")
_WIDE = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (bf16|f16|f32)\[([\d,]*)\]\S* ([\w\-]+)\(")
_NOT_STORED = {"parameter", "bitcast", "get-tuple-element", "constant"}


class Instruction(NamedTuple):
    """An operation and the shape of its result, the first one of a tuple."""

    operation: str
    shape: tuple[int, ...]


def instructions(text: str) -> Iterator[Instruction]:
    """Yield the instructions of all computations; of those that are fused the last one only."""
    fused, is_fused = set(FUSED.findall(text)), False
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            is_fused = header.group(1) in fused
        if (match := _INSTRUCTION.match(line)) and not (is_fused and "ROOT " not in line):
            sizes, operation = match.groups()
            yield Instruction(operation, tuple(int(size) for size in sizes.split(",") if size))


def find_expanded(text: str, sizes: Container[int]) -> dict[str, int]:
    """Return how often wide floats of these numbers of values are stored: packed weights that were expanded.

    What a fusion computes on the way is not stored, and parameters are not computed.
    """
    fused, counts, is_fused = set(FUSED.findall(text)), Counter[str](), False
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            is_fused = header.group(1) in fused
        match = None if is_fused else _WIDE.match(line)
        if match is None or match.group(3) in _NOT_STORED:
            continue
        shape = tuple(int(size) for size in match.group(2).split(",") if size)
        if math.prod(shape) in sizes:
            counts[f"{match.group(1)}{list(shape)} by {match.group(3)}"] += 1
    return dict(counts)


def count_collectives(text: str) -> dict[str, list[int]]:
    """Return of each kind of collective how many there are, and the bytes of all their results on one device."""
    counts: dict[str, list[int]] = {}
    for line in text.splitlines():
        if match := _COLLECTIVE.match(line):
            results, name, start = match.groups()
            shapes = _SHAPE.findall(results)
            if start and len(shapes) > 1:
                shapes = shapes[len(shapes) // 2 :]  # the first half are the operands
            entry = counts.setdefault(name, [0, 0])
            entry[0] += 1
            entry[1] += sum(
                ITEM_BYTES.get(kind, 4) * math.prod(map(int, filter(None, sizes.split(",")))) for kind, sizes in shapes
            )
    return counts


def find_moves(text: str, is_large: Callable[[tuple[int, ...]], bool]) -> dict[str, int]:
    """Return how often arrays with large shapes are copied, converted, transposed or gathered, and stored.

    What a fusion computes on the way to its result is not stored.
    """
    moves = (each for each in instructions(text) if each.operation in MOVES and is_large(each.shape))
    return dict(Counter(f"{each.operation}{list(each.shape)}" for each in moves))
