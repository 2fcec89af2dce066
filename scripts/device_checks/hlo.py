"""What the text of an optimised HLO program says about large arrays and collectives. Imports nothing of JAX."""

import math
import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
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
_ARRAY = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\w+)\[([\d,]*)\]\S* ([\w\-]+)\((.*)$")
_WIDE, _NOT_STORED = {"bf16", "f16", "f32"}, {"parameter", "bitcast", "get-tuple-element", "constant"}


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


def find_expanded(text: str, packed: Mapping[int, Container[int]]) -> dict[str, int]:
    """Return how often packed weights are stored as wide floats.

    These are made of an argument, or a copy of it, with as many narrow numbers as hold the weight, and not by a
    product: activations may have as many values as some weight has. What a fusion computes on the way is not stored,
    and parameters are not computed.

    packed   the number of a weight's values → in how many numbers such weights are packed
    """
    fused, multiplying, is_fused = set(FUSED.findall(text)), _list_multiplying(text), False
    narrow, counts = dict[str, int](), Counter[str]()
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            is_fused = header.group(1) in fused
        match = None if is_fused else _ARRAY.match(line)
        if match is None:
            continue
        name, kind, sizes, operation, rest = match.groups()
        shape = [int(size) for size in sizes.split(",") if size]
        operands = re.findall(r"%?([\w.\-]+)", rest.split(")")[0])
        if kind not in _WIDE:
            size = math.prod(shape)
            if operation == "parameter" or size in {narrow.get(operand) for operand in operands}:
                narrow[name] = size  # what is gathered of a table is no weight
            continue
        called = re.search(r"calls=%?([\w.\-]+)", rest)
        is_product = operation in ("dot", "custom-call") or (called is not None and called.group(1) in multiplying)
        if is_product or operation in _NOT_STORED:
            continue
        if any(narrow.get(operand, 0) in packed.get(math.prod(shape), ()) for operand in operands):
            counts[f"{kind}{shape} by {operation}"] += 1
    return dict(counts)


def _list_multiplying(text: str) -> set[str]:
    """Return the computations that have a product."""
    current, found = "", set[str]()
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = header.group(1)
        elif " dot(" in line:
            found.add(current)
    return found


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
