"""How near a compiled attention kernel comes to the limits of a GPU, predicted from its instructions.

Each multiprocessor has four parts, each of which issues one instruction of one warp a cycle and owns a quarter of the
tensor cores. One turn of a kernel's fastest loop is compared with what limits it:

    prefill   tensor: the cycles that the products take; issue: one for each instruction of all warps of the part, or
              eight for each exponential, whichever is more. "serial": nothing of a block overlaps, the products wait
              for the softmax and the other way round. "alternating": the two warps of a part take turns, one in the
              tensor cores, one in its softmax, and meet behind every block. The truth is likely between. Both are then
              weighed over a whole call: masked blocks with the instructions of the masked loop and the products that
              are thrown away, and programs dealt to the multiprocessors in order.
    decode    bytes that must be read against those moved (keys, values, scales, partial sums), the cycles of a turn's
              instructions against those of its bytes, and LAUNCH_S for each of the kernels (assumed, not compiled).
"""

import heapq
import math
import re
from collections import Counter
from dataclasses import replace
from typing import Any

from jaxserve.parallel.gpus import Gpu
from scripts.device_checks.gpu_code import KernelCode, is_product
from scripts.device_checks.report import Record

LAUNCH_S = 2e-6  # launch, first loads and the last programs of a kernel inside a command buffer: assumed
CYCLES_OF_EXP = 8  # 16 exponentials a cycle and multiprocessor


def choose_kernel_config(case: Any, gpu: Gpu) -> Any:
    """Return the sizes that the kernels have on the GPU, with the case's own changes."""
    from jaxserve.attention.gpu.pages import choose_config

    return replace(choose_config(gpu.device_kind, gpu.compute_capability), **case.options.get("config", {}))


def predict(kernel: KernelCode, case: Any, gpu: Gpu) -> Record:
    """Return the facts of a kernel and its predicted shares of the GPU's limits."""
    launch = kernel.launch
    by_registers = 65536 // (max(8, -(-kernel.registers // 8) * 8) * launch.threads)
    by_shared = gpu.shared_bytes // (launch.shared_bytes + 1024)
    programs = min(by_registers, by_shared, gpu.max_threads // launch.threads, 32)
    has_spills = kernel.spill_bytes > 0 and case.dtype != "float32"
    # What ptxas does where registers are short or something comes between: every product waits for the one before.
    is_serialized = kernel.count("HGMMA") > 0 and kernel.count("WARPGROUP.DEPBAR") >= kernel.count("HGMMA")
    record: Record = {
        "outcome": "failed" if has_spills or is_serialized or programs == 0 else "passed",
        "kernel": re.sub(r"_\d+$", "", kernel.name),
        "grid": list(launch.grid),
        "threads": launch.threads,
        "registers": kernel.registers,
        "spill_bytes": kernel.spill_bytes,
        "shared_bytes": launch.shared_bytes,
        "programs_per_processor": programs,
        "wgmma": kernel.count("HGMMA"),
        "is_serialized": is_serialized,
        "mma": kernel.count("HMMA|UTC.*MMA"),
        "copies_16_bytes": kernel.count(r"LDGSTS.*\.128"),
        "copies_narrow": kernel.count("LDGSTS") - kernel.count(r"LDGSTS.*\.128"),
        "loops": [
            {"instructions": sum(loop.values()), "tensor_cycles": tensor_cycles(loop, gpu)} for loop in kernel.loops
        ],
    }
    if not kernel.loops or kernel.count("UTC") or "combine" in kernel.name:  # UTCHMMA: B200's, of unknown cost
        return record
    record["loop"] = dict(min(kernel.loops, key=_cost).most_common(24))
    predict_shares = _predict_prefill if case.columns > 1 else _predict_decode
    return record | predict_shares(kernel, case, gpu)


def tensor_cycles(loop: Counter[str], gpu: Gpu) -> float:
    """Return the cycles that the products of one warp take on its part of the tensor cores."""
    total = 0.0
    for name, number in loop.items():
        if not is_product(name):
            continue
        if shape := re.search(r"\.(\d+)x(\d+)x(\d+)", name):  # of four warps, one on each part
            total += number * math.prod(map(int, shape.groups())) / gpu.products
        else:  # HMMA.16816: 16 x 8 x 16 products of one warp
            total += number * 16 * 8 * (8 if ".1688." in name else 16) / (gpu.products / 4)
    return total


def loop_times(kernel: KernelCode, loop: Counter[str], turns: float, gpu: Gpu) -> tuple[float, float]:
    """Return the seconds that the instructions and the products of a loop take in so many turns of a multiprocessor."""
    warps = kernel.launch.threads // 128  # of a part of a multiprocessor
    cycles = turns * warps * sum(loop.values()), turns * warps * tensor_cycles(loop, gpu)
    return cycles[0] / gpu.product_hz, cycles[1] / gpu.product_hz


def _cost(loop: Counter[str]) -> float:
    """Return the issue cycles of a turn, for one warp."""
    exps = sum(number for name, number in loop.items() if name.startswith("MUFU"))
    return max(sum(loop.values()), CYCLES_OF_EXP * exps)


def _add(tensor: float, issue: float) -> float:
    return tensor + issue


def alternate(tensor: float, issue: float) -> float:
    """Return the cycles of a block for each of two warps, whose products are served in order.

    Each has products (half of `tensor`), a softmax, and products again. The first one's softmax runs alone while the
    second waits for the tensor cores, then both share the issue slots.
    """
    products = tensor / 2
    first_end = products + issue if issue <= products else 2 * issue
    second_end = max(2 * products + issue, products + 2 * issue) if issue > products else 2 * products + issue
    first_done = max(first_end, 2 * products) + products
    return (max(first_done, second_end) + products) / 2


def _predict_prefill(kernel: KernelCode, case: Any, gpu: Gpu) -> Record:
    """Weigh the loops over all programs of a call whose rows have `context` tokens after it."""
    import jax.numpy as jnp

    from jaxserve.attention.gpu.pages import AttentionParams, choose_block_tokens
    from jaxserve.attention.gpu.prefill import choose_splits, choose_tile_rows

    config, itemsize = choose_kernel_config(case, gpu), jnp.dtype(case.dtype).itemsize
    page_itemsize = jnp.dtype(case.pages_dtype or case.dtype).itemsize
    block = choose_block_tokens(case.head_dim, page_itemsize, config, is_decode=False)
    group, window = case.heads // case.kv_heads, case.options.get("window")
    params = AttentionParams(case.kv_heads, group, case.head_dim, 16, block, 1.0, window, None, False)
    tile_rows = choose_tile_rows(case.columns, itemsize, params, config)
    warps = kernel.launch.threads // 128
    tiles = -(-case.rows * case.columns * group // tile_rows) * case.kv_heads
    most_splits = choose_splits(tiles, case.max_tokens, params, config)
    whole, masked = min(kernel.loops, key=_cost), max(kernel.loops, key=_cost)
    shares: Record = {"tile_rows": tile_rows, "block_tokens": block}
    for name, combine in ("serial", _add), ("alternating", alternate):
        times = []
        for whole_blocks, masked_blocks in blocks_of_tiles(case, tile_rows // group, block, window):
            blocks = whole_blocks + masked_blocks
            splits = max(1, min(most_splits, blocks * block // config.prefill_split_tokens))
            cycles = whole_blocks * combine(tensor_cycles(whole, gpu), _cost(whole))
            cycles += masked_blocks * combine(tensor_cycles(masked, gpu), _cost(masked))
            times += [warps * cycles / splits] * splits
        end = deal([time for time in times for _ in range(case.kv_heads)], gpu.num_processors)
        products = case.rows * case.heads * case.head_dim * 2 * visible_keys(case, window)
        shares[f"share_of_loop_{name}"] = tensor_cycles(whole, gpu) / combine(tensor_cycles(whole, gpu), _cost(whole))
        shares[f"share_{name}"] = products / gpu.products / gpu.num_processors / end
    return shares


def blocks_of_tiles(case: Any, queries: int, block: int, window: int | None) -> list[tuple[int, int]]:
    """Return the blocks without and with a mask of each tile of all rows, last tiles first, as the kernel counts."""
    counts = []
    for start in reversed(range(case.context - case.columns, case.context, queries)):
        nearest, farthest = start, min(start + queries, case.context) - 1
        begin = 0 if window is None else max(0, nearest - window + 1) // block
        whole_begin = 0 if window is None else -(-max(0, farthest - window + 1) // block)
        whole = max(0, (nearest + 1) // block - whole_begin)
        counts += [(whole, -(-(farthest + 1) // block) - begin - whole)] * case.rows
    return counts


def visible_keys(case: Any, window: int | None) -> int:
    """Return the pairs of a query and a key that it sees, of one row."""
    positions = range(case.context - case.columns, case.context)
    return sum(min(position + 1, window or position + 1) for position in positions)


def deal(times: list[float], processors: int) -> float:
    """Return when the last program ends if each goes to the multiprocessor that is free first."""
    ends = [0.0] * processors
    for time in times:
        heapq.heappush(ends, heapq.heappop(ends) + time)
    return max(ends)


def _predict_decode(kernel: KernelCode, case: Any, gpu: Gpu) -> Record:
    """Compare what must be read with what is moved, and a turn's instructions with the time of its bytes."""
    import jax.numpy as jnp

    from jaxserve.attention.gpu.pages import choose_block_tokens

    config = choose_kernel_config(case, gpu)
    itemsize = jnp.dtype(case.pages_dtype or case.dtype).itemsize
    scale_bytes = 4 if itemsize == 1 else 0
    block = choose_block_tokens(case.head_dim, itemsize, config, is_decode=True)
    token_bytes = 2 * (case.head_dim * itemsize + scale_bytes)
    tokens = min(case.context, case.options.get("window") or case.context)
    needed = case.rows * case.kv_heads * tokens * token_bytes
    splits = min(-(-tokens // config.split_tokens), config.row_programs // case.kv_heads)
    partial = 0 if splits == 1 else 2 * case.rows * case.heads * splits * (case.head_dim + 2) * 4
    turn_cycles = block * token_bytes / (gpu.bytes_per_s / gpu.num_processors / (gpu.product_hz))
    issue = kernel.launch.threads // 128 * _cost(min(kernel.loops, key=_cost)) / turn_cycles
    seconds = (needed + partial) / gpu.bytes_per_s
    kernels = 1 if case.max_tokens <= config.split_tokens else 2
    return {
        "block_tokens": block,
        "needed_bytes": needed,
        "moved_bytes": needed + partial,
        "issue_share": issue,
        "share_of_bytes": needed / (needed + partial) / max(1.0, issue),
        "share_with_launches": needed / gpu.bytes_per_s / (seconds * max(1.0, issue) + kernels * LAUNCH_S),
    }


def show_table(records: list[Record]) -> str:
    """Return the records as a table in Markdown."""
    head = "| GPU | case | kernel | grid | regs | spill | shared KiB | programs/SM | wgmma, mma | 16-byte copies"
    lines = [head + " | loop: instr, tensor cycles | share |", "|" + "---|" * 12]
    for record in records:
        if "registers" not in record:
            lines.append(f"| {record['target']} | {record['case']} | {record['why'][:60]} |" + " |" * 9)
            continue
        loops = ", ".join(f"{loop['instructions']}/{loop['tensor_cycles']:.0f}" for loop in record["loops"])
        share = ""
        if "share_serial" in record:
            share = f"{record['share_serial']:.0%} serial, {record['share_alternating']:.0%} alternating"
        elif "share_of_bytes" in record:
            share = f"{record['share_of_bytes']:.0%} of bytes, {record['share_with_launches']:.0%} with launches"
            share += f", issue {record['issue_share']:.0%}"
        grid = "x".join(map(str, record["grid"]))
        shared = record["shared_bytes"] // 1024
        lines.append(
            f"| {record['target']} | {record['case']} | {record['kernel']} | {grid} | {record['registers']} |"
            f" {record['spill_bytes']} | {shared} | {record['programs_per_processor']} |"
            f" {record['wgmma']}, {record['mma']} | {record['copies_16_bytes']} | {loops} | {share} |"
        )
    return "\n".join(lines)
