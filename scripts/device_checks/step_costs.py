"""What the text of an optimised HLO program says of the time of a step, by part. Imports nothing of JAX.

    matmuls       On TPUs the compiler's own cycles, of windowed products alone (COST_MODEL_TYPE_CLASSIC; what it says
                  of other instructions is wrong by an order of magnitude). On GPUs it says nothing: of each product
                  the time of its bytes, or that of what it multiplies, as compiled.
    prefetches    Copies of weights into a TPU's vector memory, which go on beside everything else. Memory has time for
                  them while products take twice as long as their own bytes, or longer.
    collectives   Their bytes over the links, and COLLECTIVE_S for each.
    operations    All other instructions: their operands and results in memory, once. Of those that gather or scatter
                  the largest array is not counted, in which they touch a few rows, and the rest counts twice.

The kernel of experts on GPUs is a product: it is taken to read all of them, and to multiply the rows that only fill up
blocks, too. Other kernels (attention, and the write of pages) are left out. Loops count once.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from scripts.device_checks.hlo import COMPUTATION, FUSED, ITEM_BYTES

# Latency of a collective of a few chips: assumed; over NVLink NCCL needs about twice as long as a TPU's links.
COLLECTIVE_S = {"tpu": 5e-6, "gpu": 10e-6}
LAYER = "_run_layer"  # in the names of what a layer computes
_LINE = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_COLLECTIVE = re.compile(r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?$")
_TOUCHES_ROWS = re.compile(r" (?:gather|scatter|dynamic-slice|dynamic-update-slice)\(")
_FREE = {
    *("parameter", "constant", "bitcast", "get-tuple-element", "tuple", "after-all", "partition-id", "replica-id"),
    *("while", "conditional", "call", "optimization-barrier", "reshape"),
}


class Array(NamedTuple):
    """The bytes of an array, and whether it is in a TPU's vector memory."""

    num_bytes: int
    is_near: bool


class Operation(NamedTuple):
    """An instruction that is stored: its results and operands, the rest of its line, and what it calls.

    flops          of its products, where it is a fusion of `dot`
    touches_rows   whether it gathers or scatters
    """

    opcode: str
    results: tuple[Array, ...]
    operands: tuple[Array, ...]
    text: str
    flops: int = 0
    touches_rows: bool = False


@dataclass(frozen=True)
class Costs:
    """Costs of one device. They can be added, and multiplied by a number of layers.

    matmul_s          Time of products.
    idle_s            Time in it in which memory could do something else.
    prefetch_bytes    Bytes of weights that are fetched beside other things.
    operation_bytes   Bytes of all other operations.
    collective_s      Time of collectives.
    num_operations    The number of operations, products and collectives.
    """

    matmul_s: float = 0.0
    idle_s: float = 0.0
    prefetch_bytes: float = 0.0
    operation_bytes: float = 0.0
    collective_s: float = 0.0
    num_operations: float = 0.0

    def __add__(self, other: "Costs") -> "Costs":
        return Costs(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Costs)))

    def times(self, factor: float) -> "Costs":
        """Return the costs of so many."""
        return Costs(*(factor * getattr(self, each.name) for each in fields(Costs)))


def read_costs(text: str, target: Any) -> tuple[Costs, Costs]:
    """Return the costs of all layers of a program, and those of the rest. target: one of parallel.targets."""
    in_layers = outside = Costs()
    for operation in list_operations(text):
        costs = cost_operation(operation, target)
        name = re.search(r'op_name="([^"]*)"', operation.text)
        if name is None or LAYER in name[1]:  # copies have no name, and most are of layers
            in_layers += costs
        else:
            outside += costs
    return in_layers, outside


def list_operations(text: str) -> Iterator[Operation]:
    """Yield the instructions that are stored, but for those that cost nothing."""
    fused, arrays, flops, touching = set(FUSED.findall(text)), dict[str, tuple[Array, ...]](), *_read_computations(text)
    current = ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = header[1]
            continue
        match = _LINE.match(line)
        if match is None or current in fused:
            continue
        name, results, opcode, rest = match.groups()
        arrays[name] = tuple(_read_arrays(results))
        if opcode in _FREE or opcode.endswith("-done"):
            continue
        operands = tuple(array for each in _read_names(rest) for array in arrays.get(each, ()))
        called = re.search(r"calls=%?([\w.\-]+)", rest)
        body = called[1] if called else ""
        touches_rows = body in touching or bool(_TOUCHES_ROWS.match(f" {opcode}("))
        yield Operation(opcode, arrays[name], operands, f"{name} {rest}", flops.get(body, 0), touches_rows)


def _read_computations(text: str) -> tuple[dict[str, int], set[str]]:
    """Return what the products of each computation multiply, and the computations that gather or scatter."""
    shapes, flops, touching, current = dict[str, list[int]](), dict[str, int](), set[str](), ""
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            current = header[1]
        if _TOUCHES_ROWS.search(line):
            touching.add(current)
        if (match := _LINE.match(line)) and (array := _ARRAY.search(match[2])):
            shapes[match[1]] = [int(size) for size in array[2].split(",") if size]
            if match[3] == "dot" and (sides := _CONTRACTED.search(line)):
                left = shapes.get(_read_names(match[4])[0], [])
                depth = math.prod(left[int(side)] for side in sides[1].split(",") if int(side) < len(left))
                flops[current] = flops.get(current, 0) + 2 * depth * math.prod(shapes[match[1]])
    return flops, touching


def _read_names(rest: str) -> list[str]:
    return re.findall(r"%([\w.\-]+)", rest.split(")")[0])


def _read_arrays(text: str) -> Iterator[Array]:
    for kind, sizes, layout in _ARRAY.findall(text):
        size = math.prod(int(each) for each in sizes.split(",") if each)
        yield Array(size * ITEM_BYTES.get(kind, 4), "S(1)" in layout)


def cost_operation(operation: Operation, target: Any) -> Costs:
    """Return the costs of one instruction on a machine."""
    opcode, results, text = operation.opcode, operation.results, operation.text
    if "cross_program_prefetch_index" in text:  # of the first products of the next step, whose own copy counts
        return Costs()
    if opcode in ("copy-start", "slice-start"):
        fetched = [array.num_bytes for array in results if array.is_near]
        return Costs(prefetch_bytes=max(fetched, default=0))
    if match := _COLLECTIVE.match(opcode):
        return Costs(collective_s=_time_collective(match[1], results, target), num_operations=1)
    if opcode == "custom-call" and "expert_matmul" in text:
        seconds = max(_count_bytes(operation) / target.bytes_per_s, _count_expert_flops(text) / target.flops_per_s)
        return Costs(matmul_s=seconds, num_operations=1)
    if opcode == "custom-call" and ("tpu_custom_call" in text or "xla.gpu.triton" in text or "ConcatBitcast" in text):
        return Costs()
    if "COST_MODEL_TYPE_CLASSIC" in text and (cycles := _CYCLES.search(text)):
        seconds = int(cycles[1]) / target.clock_hz
        own_s = _count_bytes(operation) / target.bytes_per_s
        return Costs(matmul_s=seconds, idle_s=seconds - own_s if seconds > 2 * own_s else 0.0, num_operations=1)
    if target.platform == "gpu" and operation.flops:
        seconds = max(_count_bytes(operation) / target.bytes_per_s, operation.flops / target.flops_per_s)
        return Costs(matmul_s=seconds, num_operations=1)
    return Costs(operation_bytes=_count_bytes(operation), num_operations=1)


def _count_expert_flops(text: str) -> int:
    """Return what a kernel of experts multiplies: every row with the matrices of one expert."""
    operands = text.split("operand_layout_constraints={")[1].split("}}")[0]
    shapes = [(kind, [int(size) for size in sizes.split(",") if size]) for kind, sizes, _ in _ARRAY.findall(operands)]
    rows = [sizes[0] for kind, sizes in shapes if kind == "s32"][2:] or shapes[0][1][:1]
    return sum(2 * rows[0] * math.prod(sizes[1:]) for _, sizes in shapes if len(sizes) == 3)


def _count_bytes(operation: Operation) -> int:
    """Return the bytes of an operation's arrays in memory."""
    far = [array.num_bytes for array in (*operation.results, *operation.operands) if not array.is_near]
    if operation.touches_rows:
        largest = max(far, default=0)
        return 2 * sum(num_bytes for num_bytes in far if num_bytes < largest)
    return sum(far)


def _time_collective(kind: str, results: tuple[Array, ...], target: Any) -> float:
    """Return the time of a collective of all devices: each sends all but its part, a reduction twice."""
    ways, num = (2 if kind == "all-reduce" else 1), target.num_devices
    num_bytes = max((array.num_bytes for array in results), default=0)
    return ways * (num - 1) / num * num_bytes / target.link_bytes_per_s + COLLECTIVE_S[target.platform]
