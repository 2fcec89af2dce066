"""What is asked of a compiled program: updates in place, no large moves, sizes as planned."""

import math
from functools import partial
from typing import Any

import jax

from jaxserve.engine.program_table import CopyPages, Forward, ProgramKey, Sample
from jaxserve.layers.scaled_weight import ScaledWeight
from scripts.device_checks.compile_plan import Programs, count_rows, donated_leaves, local_bytes
from scripts.device_checks.hlo import count_collectives, find_expanded, find_moves
from scripts.device_checks.report import Record

SIZING_ERROR = 0.03  # of what the compiler says of weights and pages
# Moves of all logits that are known and not mended yet, by what the program's name begins with. They may not increase.
KNOWN_MOVES = {
    ("tpu", "PROCESSORS"): "masks of bits are unpacked in another layout: 0.4 ms a step on a v5e at 128 rows",
    ("tpu", "LOGPROBS"): "the same",
    ("tpu", "ALL_LOGPROBS"): "the same",
    ("tpu", "BEAM"): "the same",
}
STATE_SLACK = 2**18  # bytes by which arrays of a few numbers may be larger than we count: they are padded


def check(compiled: Any, programs: Programs, key: ProgramKey, backend: str) -> Record:
    """Return what the compiler says of a program, and its faults."""
    table, leaves = programs.table, jax.tree.leaves(programs.state.pages)
    layer_sizes = {math.prod(leaf.shape) // programs.num_devices for leaf in leaves}
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    vocab_sizes = {table.padded_vocab_size, table.padded_vocab_size // programs.num_devices}
    is_wanted = partial(is_large, layer_sizes=layer_sizes, rows=count_rows(key), vocab_sizes=vocab_sizes)
    donated = local_bytes(donated_leaves(programs, key))
    moves = find_moves(text, is_wanted)
    is_known = isinstance(key, Sample) and (backend, key.mode.name) in KNOWN_MOVES
    record = {
        "code_bytes": memory.generated_code_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "result_bytes": max(0, memory.output_size_in_bytes - memory.alias_size_in_bytes),
        "argument_bytes": memory.argument_size_in_bytes,
        "is_in_place": memory.alias_size_in_bytes >= donated,
        "large_moves": {} if is_known else moves,
        "known_moves": moves if is_known else {},
        "expanded_weights": find_expanded(text, _packed_sizes(programs.weights)),
        "packed_weights": sum(isinstance(weight, ScaledWeight) for weight in programs.weights),
        "collectives": count_collectives(text),
    }
    if isinstance(key, Forward | CopyPages):
        planned = programs.weight_bytes if isinstance(key, Forward) else 0
        record["planned_bytes"] = planned + local_bytes(leaves)
    return record | {"faults": list_faults(record)}


def list_faults(record: Record) -> list[str]:
    """Return in words what must not be."""
    faults = [] if record["is_in_place"] else ["the state is not updated in place"]
    faults += [f"{count} {move}" for move, count in record["large_moves"].items()]
    faults += [f"{count} expanded {weight}" for weight, count in record["expanded_weights"].items()]
    planned, said = record.get("planned_bytes"), record["argument_bytes"]
    if planned is not None and not _is_alike(said, planned):
        faults.append(f"weights and pages take {said} bytes, and {planned} are planned")
    return faults


def _is_alike(said: int, planned: int) -> bool:
    return abs(said - planned) <= SIZING_ERROR * planned + STATE_SLACK


def _packed_sizes(weights: tuple[Any, ...]) -> dict[int, set[int]]:
    """Return the number of values of each packed weight on a device, and in how many numbers such are packed."""
    sizes: dict[int, set[int]] = {}
    for weight in weights:
        if isinstance(weight, ScaledWeight):
            num = math.prod(weight.data.sharding.shard_shape(weight.data.shape))
            sizes.setdefault(num * (2 * weight.data.dtype.itemsize if weight.kind == "int4" else 1), set()).add(num)
    return sizes


def is_large(shape: tuple[int, ...], *, layer_sizes: set[int], rows: int, vocab_sizes: set[int]) -> bool:
    """Return whether an array is as large as the pages of a layer, or as the logits of all rows."""
    size = math.prod(shape)
    return size in layer_sizes or any(
        size == rows * vocab_size and shape[-1] == vocab_size for vocab_size in vocab_sizes
    )
