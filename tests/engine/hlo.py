"""Reads the text of optimised HLO, as far as two questions need: what is copied whole, and what is donated."""

import math
import re
from collections.abc import Iterator

# "  ROOT %name.1 = f32[4,8]{1,0} copy(...)", the type possibly a tuple of such shapes.
_INSTRUCTION = re.compile(r"^\s*(?:ROOT\s+)?%?(?P<name>[\w.\-]+)\s*=\s*(?P<type>\(.*?\)|\S+)\s+(?P<op>[\w\-]+)\(")
_SHAPE = re.compile(r"\b[a-z]+\d*[a-z0-9]*\[(?P<dims>[\d,]*)\]")
MOVES = {"copy", "copy-start", "transpose"}


def instructions(text: str) -> Iterator[tuple[str, str, int]]:
    """(name, operation, elements of its largest result) of every instruction, those inside fusions included."""
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            sizes = [math.prod(int(n) for n in dims.split(",") if n) for dims in _SHAPE.findall(found["type"])]
            yield found["name"], found["op"], max(sizes, default=0)


def large_moves(text: str, elements: int) -> list[str]:
    """Instructions that copy or transpose at least so many elements."""
    return [f"{op} {name}: {size}" for name, op, size in instructions(text) if op in MOVES and size >= elements]


def num_donated(text: str) -> int:
    """Arguments whose memory an output takes over."""
    header = text.split("\n", 1)[0]
    return header.count("-alias)")
