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
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

OURS = "paged_", "int4_", "expert_"  # the beginnings of their names
_LAUNCH = re.compile(r" (\w+) grid: \[(.*?)\] threads: \[(\d+).*shared_memory: (\d+)")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SPILLS = re.compile(r"(\d+) bytes spill stores")
_FUNCTION = re.compile(r"^\s*\.section\s+\.text\.(\w+).*$", re.MULTILINE)
_LABEL = re.compile(r"^\s*(\.L_\w+):")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Za-z0-9_.]*)(.*?);")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_TENSOR = re.compile(r"[HIQUO]*G?MMA|UTC\w*MMA")


class Launch(NamedTuple):
    """The launch of a kernel: programs, threads of each, and bytes of shared memory of each."""

    grid: tuple[int, ...]
    threads: int
    shared_bytes: int


class Resources(NamedTuple):
    """What a thread of a kernel takes: registers, and the bytes that it stores for want of them."""

    registers: int
    spill_bytes: int


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


def dump_options(directory: Path | str) -> dict[str, str | bool]:
    """Return the compiler options with which XLA dumps a program and its PTX.

    jaxlib 0.11 dumps PTX only if it is asked for; 0.10 does so by itself, and takes minutes if it is asked.
    """
    dumps_on_request = tuple(map(int, version("jaxlib").split(".")[:2])) >= (0, 11)
    options: dict[str, str | bool] = {"xla_dump_to": str(directory)}
    return options | ({"xla_dump_emitter_re": ".*"} if dumps_on_request else {})


def read_kernels(directory: Path, architecture: str) -> list[KernelCode]:
    """Return our kernels with products of a dump, in the order of their names: attention's and those of int4 weights.

    architecture   The name by which ptxas knows the GPU.
    """
    launches, kernels = read_launches(directory), []
    for path in sorted(directory.glob("*.ptx")):
        names = [name for name in re.findall(r"\.entry\s+(\w+)", path.read_text()) if name.startswith(OURS)]
        if not names:
            continue
        cubin = path.with_suffix(".cubin")
        resources = assemble(path, architecture, cubin)
        listings = split_functions(run_program("nvdisasm", "-c", "-hex", str(cubin)))
        for name in names:
            counts, loops = read_loops(listings[name])
            kernels.append(KernelCode(name, launches[name], *resources[name], counts, tuple(loops)))
    return kernels


def read_launches(directory: Path) -> dict[str, Launch]:
    """Return the launch of each kernel of a dump."""
    text = "".join(path.read_text() for path in directory.glob("*thunk_sequence.txt"))
    return {
        name: Launch(tuple(int(size) for size in grid.split(",")), int(threads), int(shared))
        for name, grid, threads, shared in _LAUNCH.findall(text)
    }


def assemble(ptx: Path, architecture: str, cubin: Path | None = None) -> dict[str, Resources]:
    """Return what each kernel of a PTX file takes, and write its machine code. Raises CalledProcessError."""
    report = run_program("ptxas", "-v", f"-arch={architecture}", str(ptx), "-o", str(cubin or "/dev/null"))
    return read_resources(report)


def read_resources(report: str) -> dict[str, Resources]:
    """Return what each kernel takes by the report of ptxas."""
    resources = {}
    for part in re.split(r"Compiling entry function ", report)[1:]:
        registers, spills = _REGISTERS.search(part), _SPILLS.search(part)
        assert registers and spills, part
        resources[part.split("'")[1]] = Resources(int(registers[1]), int(spills[1]))
    return resources


def split_functions(listing: str) -> dict[str, str]:
    """Return the listing of each kernel by its name."""
    _, *parts = _FUNCTION.split(listing)
    return dict(zip(parts[::2], parts[1::2], strict=True))


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
