"""What ptxas and the PTX say of our kernels for GPUs: registers, spills, shared memory, tensor cores, wide copies."""

import re
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.device_checks.report import Record

_ENTRY = re.compile(r"\.entry\s+(\w+)")
_THREADS = re.compile(r"\.(?:reqntid|maxntid)\s+(\d+)")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r" (\w+) grid: \[(.*?)\] threads: \[(\d+).*shared_memory: (\d+)")
# Names of kernels in jaxserve/attention/gpu, as far as they multiply or copy pages.
PRODUCTS = re.compile(r"decode|prefill|split|tile|attend")
OURS = re.compile(r"page|decode|prefill|attend|split|tile|write|latent|combine|merge")


def read_kernels(directory: Path, architecture: str) -> dict[str, Record]:
    """Return the facts about each of our kernels in a dump of XLA, by name.

    architecture   The name by which ptxas knows the GPU.
    """
    launches = {name: (grid, int(threads), int(shared)) for name, grid, threads, shared in _list_launches(directory)}
    kernels = {}
    for file in sorted(directory.glob("*.ptx")):
        text = file.read_text()
        names = [name for name in _ENTRY.findall(text) if OURS.search(name)]
        if not names:
            continue
        facts = _assemble(file, architecture)
        for name in names:
            grid, threads, shared = launches.get(name, ("", 0, 0))
            body = text[text.index(f".entry {name}") :] if f".entry {name}" in text else text
            kernels[_short(name)] = facts[name] | {
                "threads": threads or int((_THREADS.search(body) or [0, 0])[1]),
                "grid": grid,
                "shared_bytes": shared,
                "wgmma": body.count("wgmma.mma_async"),
                "mma": body.count("mma.sync"),
                "async_copies": len(re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*0x10", body)),
            }
    return kernels


def _list_launches(directory: Path) -> Iterator[tuple[str, ...]]:
    for file in directory.glob("*thunk_sequence.txt"):
        yield from _SHARED.findall(file.read_text())


def _assemble(file: Path, architecture: str) -> dict[str, Record]:
    """Return registers and spills of each kernel in a PTX file."""
    ptxas = Path(sysconfig.get_path("purelib"), "nvidia", "cu13", "bin", "ptxas")
    command = [str(ptxas), "-v", f"-arch={architecture}", str(file), "-o", "/dev/null"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    facts = {}
    for part in re.split(r"Compiling entry function ", said)[1:]:
        name = part.split("'")[1]
        spills, registers = _SPILLS.search(part), _REGISTERS.search(part)
        assert spills and registers, part
        facts[name] = {"registers": int(registers.group(1)), "spill_bytes": int(spills[2]) + int(spills[3])}
    return facts


def _short(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def list_kernel_faults(kernels: dict[str, Record], dtype: Any) -> list[str]:
    """Return in words what must not be in kernels for this type of activations."""
    faults = []
    for name, kernel in kernels.items():
        if kernel["spill_bytes"] and str(dtype) == "bfloat16":
            faults.append(f"{name} spills {kernel['spill_bytes']} bytes")
        if PRODUCTS.search(name) and "combine" not in name and "merge" not in name:
            if not kernel["wgmma"] + kernel["mma"]:
                faults.append(f"{name} has no tensor-core products")
            if not kernel["async_copies"]:
                faults.append(f"{name} has no asynchronous copies of 16 bytes")
    return faults
