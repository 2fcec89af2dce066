"""Compiles the products of experts for GPUs that are not there, and predicts how near they come to their limits.

    python3 scripts/device gpu_experts [--target h200 ...] [--model NAME ...] [--tokens 1 32 2048] [--json FILE]

Needs what gpu_products.py needs, and no GPU; nothing runs. The products are those of a layer: gate and up with their
activation, and down. Every token chooses experts at random, all alike. Each kernel is compared with what limits it:

    bytes    weights of the experts that are chosen against all that is moved: rows, results, and the sums of splits
    issue    the instructions of all warps of a part of a multiprocessor, one a cycle, if programs are dealt evenly
    tensor   the cycles that the tensor cores take, in the same way

The share is the time of these weights at the full rate of the memory, against the longest of the three, or with
launches, LAUNCH_S more. Where the tensor cores need longer it is the time of the pairs' products at their full rate,
without rows that only fill up a block, against the longer one of issue and tensor, and against both together.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxserve.parallel.gpus import GPUS, Gpu
from jaxserve.parallel.targets import TARGETS, describe_devices
from scripts.device_checks.gpu_code import KernelCode, dump_options, read_kernels
from scripts.device_checks.gpu_prediction import LAUNCH_S, loop_times
from scripts.device_checks.report import Record


@dataclass(frozen=True)
class Experts:
    """The experts of a model on one device.

    local     The experts that the device has; None: all. Tokens choose among all of them.
    hidden    Numbers of an expert on the device.
    dtype     Of the weights.
    """

    num: int
    top_k: int
    width: int
    hidden: int
    local: int | None = None
    dtype: str = "bfloat16"

    @property
    def num_local(self) -> int:
        """The number of experts that the device has."""
        return self.local or self.num


MODELS = {
    "Qwen3-30B-A3B": Experts(128, 8, 2048, 768),
    "Qwen3-30B-A3B, 16 of 128 experts": Experts(128, 8, 2048, 768, local=16),
    "Qwen3-30B-A3B, an eighth of each": Experts(128, 8, 2048, 96),
    "Qwen3-30B-A3B, int8": Experts(128, 8, 2048, 768, dtype="int8"),
    "Qwen3-30B-A3B, fp8": Experts(128, 8, 2048, 768, dtype="float8_e4m3fn"),
    "gpt-oss-20b": Experts(32, 4, 2880, 2880),
    "Mixtral-8x7B, an eighth of each": Experts(8, 2, 4096, 1792),
}


HEAD = (
    "| GPU | experts of | tokens | product | experts, blocks of rows | grid | regs | spill | shared KiB | wgmma, mma |"
    " bytes, issue, tensor: us | share |\n" + "|" + "---|" * 12
)


@dataclass(frozen=True)
class Load:
    """What tokens chosen at random leave to a device: pairs of a token and an expert, experts, and blocks of rows."""

    pairs: float
    experts: float
    blocks: float


def draw_load(experts: Experts, tokens: int, rows: int, draws: int = 50) -> Load:
    """Return the mean load of a few draws."""
    rng, sums = np.random.default_rng(0), np.zeros(3)
    for _ in range(draws):
        chosen = rng.random((tokens, experts.num)).argpartition(experts.top_k - 1, axis=1)[:, : experts.top_k]
        count_E = np.bincount(chosen.reshape(-1), minlength=experts.num)[: experts.num_local]
        sums += count_E.sum(), (count_E > 0).sum(), (-(-count_E // rows)).sum()
    return Load(*(sums / draws))


def compile_products(
    experts: Experts, tokens: int, rows: int, gpu: Gpu, device: Any
) -> Iterator[tuple[str, KernelCode]]:
    """Compile the two products and yield their kernels."""
    import jax
    import jax.numpy as jnp

    from jaxserve.layers.experts_gpu import ExpertWeight, expert_matmul
    from jaxserve.layers.gpu_tiles import BlockExperts, Epilogue

    place = jax.sharding.SingleDeviceSharding(device)
    num_pairs = tokens * experts.top_k
    num_blocks = num_pairs // rows + min(experts.num_local, num_pairs)

    def shape(*sizes: int, dtype: str) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=place)

    def describe_weight(width_in: int, width_out: int) -> ExpertWeight:
        sizes, is_plain = (experts.num_local, width_in, width_out), experts.dtype == "bfloat16"
        scale = None if is_plain else shape(experts.num_local, width_out, dtype="float32")
        return ExpertWeight(shape(*sizes, dtype=experts.dtype), scale)

    into, down = (
        describe_weight(*sizes) for sizes in ((experts.width, experts.hidden), (experts.hidden, experts.width))
    )
    expert_X, num, row_S = (shape(size, dtype="int32") for size in (num_blocks, 1, num_blocks * rows))
    epilogue = Epilogue(lambda gate, up: jax.nn.silu(gate) * up)

    def multiply_into(x_TI: Any, blocks: BlockExperts, gate: ExpertWeight, up: ExpertWeight) -> Any:
        return expert_matmul(x_TI, blocks, gate, up, rows=rows, epilogue=epilogue)

    def multiply_down(x_SI: Any, blocks: BlockExperts, weight: ExpertWeight) -> Any:
        return expert_matmul(x_SI, blocks, weight, rows=rows)

    x_TI = shape(tokens, experts.width, dtype=jnp.bfloat16)
    x_SI = shape(num_blocks * rows, experts.hidden, dtype=jnp.bfloat16)
    calls: dict[str, tuple[Any, ...]] = {
        "gate, up": (multiply_into, x_TI, BlockExperts(expert_X, num, row_S), into, into),
        "down": (multiply_down, x_SI, BlockExperts(expert_X, num), down),
    }
    for name, (function, *arguments) in calls.items():
        with tempfile.TemporaryDirectory() as directory:
            with jax.default_device(device):
                lowered = jax.jit(function).lower(*arguments)
            lowered.compile(compiler_options=dump_options(directory))
            [kernel] = read_kernels(Path(directory), gpu.architecture)
        yield name, kernel


def predict(kernel: KernelCode, experts: Experts, name: str, rows: int, load: Load, gpu: Gpu) -> Record:
    """Return the facts of a kernel and its predicted share of the GPU's limits."""
    from jaxserve.layers.experts_gpu import choose_turn_inputs
    from jaxserve.layers.gpu_tiles import OUTPUTS

    _, tiles, splits = kernel.launch.grid
    is_into = name != "down"
    width_in, width_out = (experts.width, experts.hidden) if is_into else (experts.hidden, experts.width)
    num_weights = 2 if is_into else 1
    is_fused = is_into and tiles == -(-width_out // OUTPUTS)
    needed = load.experts * num_weights * width_in * width_out * (2 if experts.dtype == "bfloat16" else 1)
    sums = 0 if splits == 1 else 2 * 4 * splits * load.blocks * rows * num_weights * width_out
    moved = needed + sums + 2 * load.blocks * rows * (width_in + width_out)
    # A loop of few turns may be unrolled; then all that there is counts once.
    loop = max(kernel.loops, key=lambda loop: sum(loop.values()), default=kernel.counts)
    inputs = choose_turn_inputs(2 if is_fused else 1, rows, "bfloat16")
    turns = -(-width_in // inputs) // splits if kernel.loops else 1
    programs = load.blocks * tiles * splits / gpu.num_processors
    issue_s, tensor_s = loop_times(kernel, loop, turns * programs, gpu)
    bytes_s = moved / gpu.bytes_per_s
    products_s = load.pairs * num_weights * width_in * width_out / gpu.products / gpu.num_processors / gpu.product_hz
    record: Record = {
        "outcome": "failed" if kernel.spill_bytes else "passed",
        "grid": list(kernel.launch.grid),
        "registers": kernel.registers,
        "spill_bytes": kernel.spill_bytes,
        "shared_bytes": kernel.launch.shared_bytes,
        "wgmma": kernel.count("HGMMA"),
        "mma": kernel.count("HMMA"),
        "tcgen05": kernel.count("UTC.*MMA"),
        "copies": kernel.count("LDGSTS"),
        "instructions": sum(loop.values()),
        "bytes_us": 1e6 * bytes_s,
        "issue_us": 1e6 * issue_s,
        "tensor_us": 1e6 * tensor_s,
        "needed_us": 1e6 * needed / gpu.bytes_per_s,
        "products_us": 1e6 * products_s,
    }
    if kernel.count("UTC.*MMA"):  # of unknown cost
        return record
    if tensor_s > bytes_s:
        shares = {"share": products_s / max(issue_s, tensor_s), "share_serial": products_s / (issue_s + tensor_s)}
    else:
        longest_s = max(bytes_s, issue_s, tensor_s)
        needed_s = needed / gpu.bytes_per_s
        shares = {"share": needed_s / longest_s, "share_with_launch": needed_s / (longest_s + LAUNCH_S)}
    return record | shares


def check(gpu: Gpu, models: Sequence[str], tokens: Sequence[int]) -> Iterator[Record]:
    """Compile the products and yield what is predicted of each."""
    from jaxserve.layers.gpu_tiles import choose_rows

    (device,) = describe_devices(TARGETS[f"{gpu.name}x1"])
    for model in models:
        experts = MODELS[model]
        for num in tokens:
            rows = choose_rows(-(-num * experts.top_k // experts.num))
            load = draw_load(experts, num, rows)
            for name, kernel in compile_products(experts, num, rows, gpu, device):
                about = {"kind": "experts", "target": gpu.name, "model": model, "tokens": num, "product": name}
                about |= {"rows": rows, "experts": round(load.experts, 1), "blocks": round(load.blocks, 1)}
                yield about | predict(kernel, experts, name, rows, load, gpu)


def show_line(record: Record) -> str:
    """Return a record as a line of the table."""
    share = f"{record['share']:.0%}" if "share" in record else ""
    if "share_serial" in record:
        share = f"{record['share_serial']:.0%} serial, {share} overlapped"
    elif share:
        share += f", {record['share_with_launch']:.0%} with launch"
    known = ("bytes_us", "issue_us") if record["tcgen05"] else ("bytes_us", "issue_us", "tensor_us")
    times = ", ".join(f"{record[name]:.1f}" for name in known)
    return (
        f"| {record['target']} | {record['model']} | {record['tokens']} | {record['product']} |"
        f" {record['experts']:.0f}, {record['blocks']:.0f} of {record['rows']} |"
        f" {'x'.join(map(str, record['grid']))} | {record['registers']} | {record['spill_bytes']} |"
        f" {record['shared_bytes'] // 1024} | {record['wgmma']}, {record['mma'] + record['tcgen05']} | {times} |"
        f" {share} |"
    )


def main(words: Sequence[str]) -> int:
    """Check the products on the targets that the words name; return 1 if a kernel spills."""
    parser = argparse.ArgumentParser(
        prog="device gpu_experts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", nargs="*", choices=sorted(GPUS), default=["h200"])
    parser.add_argument("--model", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--tokens", nargs="*", type=int, default=[1, 32, 2048])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    records: list[Record] = []
    print(HEAD)
    for target in arguments.target:
        for record in check(GPUS[target], arguments.model, arguments.tokens):
            print(show_line(record), flush=True)
            records.append(record)
    if arguments.json:
        arguments.json.write_text("[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n")
    return int(any(record["outcome"] == "failed" for record in records))
