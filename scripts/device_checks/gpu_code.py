"""What the machine code of a kernel says: registers, spills, shared memory, and the instructions of its loops.

Imports nothing of JAX. Reads what XLA dumps of a program, and assembles its PTX once more, because XLA keeps no report.
"""

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

_LABEL = re.compile(r"^\s*(\.L_\w+):")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Za-z0-9_.]*)(.*?);")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_TENSOR = re.compile(r"[HIQUO]*G?MMA|UTC\w*MMA")


class Launch(NamedTuple):
    """The launch of a kernel: programs, threads of each, and bytes of shared memory of each."""

    grid: tuple[int, ...]
    threads: int
    shared_bytes: int


@dataclass(frozen=True)
class KernelCode:
    """A compiled kernel.

    counts   How often each instruction occurs, by its whole name.
    loops    The same for each innermost loop with products on the tensor cores.
    """

    name: str
    launch: Launch
    registers: int
    spill_bytes: int
    counts: Counter[str]
    loops: tuple[Counter[str], ...]

    def count(self, pattern: str) -> int:
        """Return how many instructions begin with the pattern."""
        return sum(number for name, number in self.counts.items() if re.match(pattern, name))


def read_kernels(directory: Path) -> list[KernelCode]:
    """Return the attention kernels of a dump, in the order of their names."""
    thunks = "".join(path.read_text() for path in directory.glob("*thunk_sequence.txt"))
    kernels = []
    for path in sorted(directory.glob("*.ptx")):
        text = path.read_text()
        for name in re.findall(r"\.entry\s+(\w+)", text):
            if name.startswith("paged_"):
                kernels.append(_read_kernel(name, path, text, thunks))
    return kernels


def _read_kernel(name: str, path: Path, text: str, thunks: str) -> KernelCode:
    architecture = re.search(r"\.target (\w+)", text)
    assert architecture, path
    cubin = path.with_suffix(".cubin")
    report = run_program("ptxas", "-v", f"-arch={architecture.group(1)}", str(path), "-o", str(cubin))
    sass = run_program("nvdisasm", "-c", "-hex", str(cubin))
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores", report)
    assert registers and spills, report
    counts, loops = read_loops(sass)
    return KernelCode(
        name, _find_launch(name, thunks), int(registers.group(1)), int(spills.group(1)), counts, tuple(loops)
    )


def run_program(name: str, *arguments: str) -> str:
    """Run one of NVIDIA's programs and return what it prints. Raises CalledProcessError if it fails."""
    ended = subprocess.run([_find_program(name), *arguments], capture_output=True, text=True, check=True)
    return ended.stdout + ended.stderr


@cache
def _find_program(name: str) -> str:
    """Return the path of one of NVIDIA's programs, which the wheels nvidia-cuda-nvcc and nvidia-cuda-nvdisasm bring.

    Raises FileNotFoundError if it is not installed.
    """
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations if spec else None) or ():
        if (program := Path(place) / "cu13/bin" / name).exists():
            return str(program)
    if program := shutil.which(name):
        return program
    raise FileNotFoundError(f"{name} is not installed; pip install nvidia-cuda-nvcc nvidia-cuda-nvdisasm")


def _find_launch(name: str, thunks: str) -> Launch:
    line = next(line for line in thunks.splitlines() if f" {name} grid" in line)
    found = re.search(r"grid: \[(.*?)\] threads: \[(\d+).*shared_memory: (\d+)", line)
    assert found, line
    return Launch(tuple(int(size) for size in found.group(1).split(",")), int(found.group(2)), int(found.group(3)))


def read_loops(sass: str) -> tuple[Counter[str], list[Counter[str]]]:
    """Return the instructions of a listing, and those of each innermost loop that has products on the tensor cores."""
    labels: dict[str, int] = {}
    code: list[tuple[str, str]] = []
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            labels[label.group(1)] = len(code)
        elif instruction := _INSTRUCTION.match(line):
            code.append((instruction.group(2), instruction.group(3)))
    spans = []
    for end, (name, operands) in enumerate(code):
        target = _TARGET.search(operands) if name.startswith("BRA") else None
        if target and labels.get(target.group(1), end + 1) <= end:
            spans.append((labels[target.group(1)], end + 1))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    loops = [Counter(name for name, _ in code[begin:end]) for begin, end in inner]
    return Counter(name for name, _ in code), [loop for loop in loops if any(map(is_product, loop))]


def is_product(name: str) -> bool:
    """Return whether an instruction multiplies on the tensor cores."""
    return bool(_TENSOR.match(name))
