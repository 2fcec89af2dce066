"""Compiles the kernel of int4 weights for GPUs that are not there, and predicts how near it comes to their limits.

    python3 scripts/device gpu_products [--target h200 ...] [--rows 1 16 32 64 2048] [--json FILE]

Needs JAX's CUDA plugin with ptxas and nvdisasm (the project's extra `cuda`), and no GPU; nothing runs. The products are
those of a layer of Llama-3.1-8B. Each is compared with what limits it:

    bytes    codes and scales against all that is moved: rows, results, and the sums of splits, written and read
    issue    the instructions of all warps of a part of a multiprocessor, one a cycle, on the busiest multiprocessor
    tensor   the cycles that the tensor cores take, in the same way

The share is the time of codes and scales at the full rate of the memory, against the longest of the three; with
launches, LAUNCH_S more for the kernel. From 256 rows on it is the time of the products at the full rate of the tensor
cores against issue and tensor, of which the longer one is the call's time if all overlaps, and both if nothing does.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxserve.parallel.gpus import GPUS, Gpu
from jaxserve.parallel.targets import TARGETS, describe_devices
from scripts.device_checks.gpu_code import KernelCode, dump_options, read_kernels
from scripts.device_checks.gpu_prediction import LAUNCH_S, loop_times
from scripts.device_checks.report import Record

GROUP = 128
MANY_ROWS = 256  # from which on the tensor cores are the limit


@dataclass(frozen=True)
class Call:
    """Weights [in, out] that share an input."""

    width_in: int
    widths_out: tuple[int, ...]


CALLS = {
    "query, key, value": Call(4096, (4096, 1024, 1024)),
    "output": Call(4096, (4096,)),
    "gate, up": Call(4096, (14336, 14336)),
    "down": Call(14336, (4096,)),
}


def compile_call(call: Call, rows: int, gpu: Gpu, device: Any, directory: Path) -> KernelCode:
    """Compile a call and return its kernel."""
    import jax
    import jax.numpy as jnp

    from jaxserve.layers.int4_gpu import Codes, int4_matmul

    place, groups = jax.sharding.SingleDeviceSharding(device), call.width_in // GROUP

    def shape(*sizes: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    weights = [
        Codes(
            shape(1, groups, width, GROUP // 4, dtype=jnp.uint16),
            shape(1, groups, width, dtype=jnp.float32),
        )
        for width in call.widths_out
    ]
    with jax.default_device(device):
        lowered = jax.jit(int4_matmul).lower(shape(rows, call.width_in, dtype=jnp.bfloat16), *weights)
    lowered.compile(compiler_options=dump_options(directory))
    [kernel] = read_kernels(directory, gpu.architecture)
    return kernel


def predict(kernel: KernelCode, call: Call, rows: int, gpu: Gpu) -> Record:
    """Return the facts of a kernel and its predicted share of the GPU's limits."""
    from jaxserve.layers.gpu_tiles import OUTPUTS

    blocks, tiles, splits = kernel.launch.grid
    values, width_out = call.width_in * sum(call.widths_out), sum(call.widths_out)
    needed = values // 2 + 4 * values // GROUP
    partial = 0 if splits == 1 else 2 * 4 * splits * rows * width_out
    moved = needed + 2 * rows * (call.width_in + width_out) + partial
    bytes_s = moved / gpu.bytes_per_s
    loop = max(kernel.loops, key=lambda loop: sum(loop.values()))
    programs = blocks * tiles * splits
    turns = -(-call.width_in // GROUP // splits) * -(-programs // gpu.num_processors)
    issue_s, tensor_s = loop_times(kernel, loop, turns, gpu)
    record: Record = {
        "outcome": "failed" if kernel.spill_bytes else "passed",
        "grid": list(kernel.launch.grid),
        "registers": kernel.registers,
        "spill_bytes": kernel.spill_bytes,
        "shared_bytes": kernel.launch.shared_bytes,
        "wgmma": kernel.count("HGMMA"),
        "mma": kernel.count("HMMA"),
        "copies": kernel.count("LDGSTS"),
        "instructions": sum(loop.values()),
        "weights_of_turn": OUTPUTS * GROUP,
        "bytes_us": 1e6 * bytes_s,
        "issue_us": 1e6 * issue_s,
        "tensor_us": 1e6 * tensor_s,
    }
    if rows < MANY_ROWS:
        needed_s, longest_s = needed / gpu.bytes_per_s, max(bytes_s, issue_s, tensor_s)
        shares = {"share": needed_s / longest_s, "share_with_launch": needed_s / (longest_s + LAUNCH_S)}
    else:
        products_s = rows * values / gpu.products / gpu.num_processors / gpu.product_hz
        shares = {"share": products_s / max(issue_s, tensor_s), "share_serial": products_s / (issue_s + tensor_s)}
    return record | {"needed_us": 1e6 * needed / gpu.bytes_per_s} | shares


def check(gpu: Gpu, rows: Sequence[int]) -> Iterator[Record]:
    """Compile the products and yield what is predicted of each; and behind them of all products of a layer."""
    (device,) = describe_devices(TARGETS[f"{gpu.name}x1"])
    for num in rows:
        records = []
        for name, call in CALLS.items():
            with tempfile.TemporaryDirectory() as directory:
                kernel = compile_call(call, num, gpu, device, Path(directory))
            about = {"kind": "int4 product", "target": gpu.name, "rows": num, "product": name}
            records.append(about | predict(kernel, call, num, gpu))
            yield records[-1]
        if num < MANY_ROWS:
            longest = sum(max(each["bytes_us"], each["issue_us"], each["tensor_us"]) for each in records)
            share = sum(each["needed_us"] for each in records) / longest
            yield {"kind": "int4 layer", "target": gpu.name, "rows": num, "share": share, "outcome": "passed"}


def show_table(records: Sequence[Record]) -> str:
    """Return the records as a table in Markdown."""
    head = "| GPU | rows | product | grid | regs | spill | shared KiB | wgmma, mma | instr a turn"
    lines = [head + " | bytes, issue, tensor: us | share |", "|" + "---|" * 11]
    for record in records:
        start = f"| {record['target']} | {record['rows']} |"
        if record["kind"] == "int4 layer":
            lines.append(f"{start} all of a layer |" + " |" * 7 + f" **{record['share']:.0%}** |")
            continue
        share = f"{record['share']:.0%}"
        if "share_serial" in record:
            share = f"{record['share_serial']:.0%} serial, {share} overlapped"
        else:
            share += f", {record['share_with_launch']:.0%} with launch"
        times = ", ".join(f"{record[name]:.1f}" for name in ("bytes_us", "issue_us", "tensor_us"))
        lines.append(
            f"{start} {record['product']} | {'x'.join(map(str, record['grid']))} | {record['registers']} |"
            f" {record['spill_bytes']} | {record['shared_bytes'] // 1024} | {record['wgmma']}, {record['mma']} |"
            f" {record['instructions']} | {times} | {share} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Check the products on the targets that the words name; return 1 if a kernel spills."""
    parser = argparse.ArgumentParser(
        prog="device gpu_products", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", nargs="*", choices=sorted(GPUS), default=["h200"])
    parser.add_argument("--rows", nargs="*", type=int, default=[1, 16, 32, 64, 2048])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    records = [record for target in arguments.target for record in check(GPUS[target], arguments.rows)]
    print(show_table(records))
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")
    return int(any(record["outcome"] == "failed" for record in records))
