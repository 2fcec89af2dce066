"""What libtpu says of a compiled kernel: its loops, and the VLIW bundles of each, one cycle or more a bundle."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LINE = re.compile(r"^\s*0?x?[0-9a-f]+\s+((?:[A-Z]{2} ?)*)\s*:\s*([> ]*)\{(.*)")


@dataclass
class Loop:
    """A loop of a kernel, or the kernel itself.

    bundles    those of one turn, without inner loops; all branches count, those not taken, too
    products   instructions of the matrix units among them
    """

    depth: int
    parent: "Loop | None"
    bundles: int = 0
    products: int = 0
    inner: list["Loop"] = field(default_factory=list)

    def walk(self) -> Iterator["Loop"]:
        """Yield the loop and all within it, in the order of the program."""
        yield self
        for loop in self.inner:
            yield from loop.walk()


def read_loops(text: str) -> Loop:
    """Return the kernel whose final bundles these are."""
    kernel = current = Loop(0, None)
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        is_empty = match[3].startswith("}")  # its loop is not told
        depth = current.depth if is_empty else match[2].count(">")
        while current.depth > depth or ("LB" in match[1] and current.depth == depth > 0):
            assert current.parent is not None
            current = current.parent
        if depth > current.depth:
            current = Loop(depth, current)
            assert current.parent is not None
            current.parent.inner.append(current)
        current.bundles += 1
        current.products += match[3].count("vmatmul") + match[3].count("vmatpush") + match[3].count("vmatprep")
    return kernel


def find_kernel(dump: Path, name: str) -> Loop:
    """Return the newest kernel of this name that libtpu wrote into a directory.

    Raises FileNotFoundError if there is none.
    """
    files = [path for path in dump.glob(f"*{name}*-final_bundles.txt") if "schedule-analysis" not in path.name]
    if not files:
        raise FileNotFoundError(f"libtpu wrote no bundles of a kernel {name} into {dump}")
    return read_loops(max(files, key=lambda path: path.stat().st_mtime_ns).read_text())
