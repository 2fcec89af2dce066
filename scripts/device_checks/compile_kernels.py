"""What ptxas and the PTX say of our kernels for GPUs: registers, spills, shared memory, tensor cores, wide copies."""

import re
from pathlib import Path
from typing import Any

from scripts.device_checks.gpu_code import Launch, assemble, read_launches
from scripts.device_checks.report import Record

_ENTRY = re.compile(r"\.entry\s+(\w+)")
_THREADS = re.compile(r"\.(?:reqntid|maxntid)\s+(\d+)")
_WORST_FIRST = ("spill_bytes", "registers", "shared_bytes")
# Names of kernels in jaxserve/attention/gpu, as far as they multiply or copy pages, and in jaxserve/layers.
PRODUCTS = re.compile(r"decode|prefill|split|tile|attend|int4|expert")
OURS = re.compile(r"page|decode|prefill|attend|split|tile|write|latent|combine|merge|int4|expert")


def read_kernels(directory: Path, architecture: str) -> dict[str, Record]:
    """Return the facts about each of our kernels in a dump of XLA, by name.

    architecture   The name by which ptxas knows the GPU.
    """
    launches = read_launches(directory)
    kernels: dict[str, Record] = {}
    for file in sorted(directory.glob("*.ptx")):
        bodies = {name: body for name, body in split_entries(file.read_text()).items() if OURS.search(name)}
        if not bodies:
            continue
        resources = assemble(file, architecture)
        for name, body in bodies.items():
            launch = launches.get(name, Launch((), 0, 0))
            kernel = resources[name]._asdict() | {
                "threads": launch.threads or int((_THREADS.search(body) or [0, 0])[1]),
                "grid": ",".join(map(str, launch.grid)),
                "shared_bytes": launch.shared_bytes,
                "wgmma": body.count("wgmma.mma_async"),
                "mma": body.count("mma.sync"),
                "async_copies": len(re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*0x10", body)),
            }
            add_kernel(kernels, name, kernel)
    return kernels


def split_entries(text: str) -> dict[str, str]:
    """Return the text of each kernel in PTX by its whole name, up to the next one."""
    _, *parts = _ENTRY.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def add_kernel(kernels: dict[str, Record], name: str, kernel: Record) -> None:
    """Add a kernel by its name without a number; of those that share one, the one that spills or needs most stays."""
    short = re.sub(r"_\d+$", "", name)
    kernels[short] = max(kernels.get(short, kernel), kernel, key=lambda each: [each[size] for size in _WORST_FIRST])


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
