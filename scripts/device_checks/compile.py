"""Compiles the programs of a model for accelerators that are not there, and says what the compiler predicts.

    python3 scripts/device compile TARGET ... [--model NAME ...] [--devices 4] [--layers 2] [--quantization int8]
        [--kv-cache-dtype TYPE] [--json FILE]

Targets: v5e, v5p and v6e need libtpu, h200 needs JAX's CUDA plugin with ptxas: install the project's extra `tpu` or
`cuda` into a virtual environment of its own, on any machine. cpu needs nothing. For each model: a decode step, a
prefill call with eight chunks, the greedy sampler and the copy of pages, at the model's full length and with the
backend's default page size.

Every number is a prediction of the compiler about compiled code; nothing runs, and no time is among them. A program
fails if it does not compile, if its pages are not updated in place, or if an array as large as a layer's pages, or all
logits, is copied, converted, transposed or gathered; or, with a quantization, if a weight is stored in bfloat16 or
float32 anywhere. Few layers are enough for that; --layers 0 is all of them.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from scripts.device_checks.compile_targets import (
    TARGETS,
    Target,
    describe_devices,
    prepare_environment,
    tell_kernels,
)
from scripts.device_checks.hlo import count_collectives, find_expanded, find_moves
from scripts.device_checks.report import Record
from scripts.device_checks.shapes import COMPILED, tiny_config

PROGRAM = Path(__file__).resolve().parents[1] / "device"
PAGE_BYTES = 2 * 2**30  # of all layers, on each device
DECODE_ROWS, CHUNK_TOKENS = 32, 512


class Programs(NamedTuple):
    """The programs of a model on some devices, and the shapes of what they are given."""

    table: Any
    weights: tuple[Any, ...]
    state: Any


def _plan(
    target: Target, devices: tuple[Any, ...], config: dict[str, Any], kv_cache_dtype: str, quantization: Any
) -> Programs:
    """Describe the programs of a model. Nothing is allocated or compiled."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxserve.attention import BACKENDS
    from jaxserve.attention.gpu import GpuAttention
    from jaxserve.attention.page_types import choose_page_type
    from jaxserve.cache.groups import make_groups, num_pages_for
    from jaxserve.cache.pages import CacheTypes, bytes_per_page, make_pages
    from jaxserve.engine.buckets import Buckets
    from jaxserve.engine.device_state import DeviceState, RowState
    from jaxserve.engine.program_table import ProgramTable
    from jaxserve.engine.step import ModelContext
    from jaxserve.engine.weight_form import choose_requested
    from jaxserve.engine.weight_layout import WeightLayout
    from jaxserve.models.partition import check_partition, local_caches, place_params
    from jaxserve.models.registry import abstract_params, find_architecture
    from jaxserve.parallel.placement import Placement
    from jaxserve.parallel.sharding import STACKED
    from jaxserve.sampling.sampler import LogprobsConfig

    placement, num_devices = Placement(devices), len(devices)
    architecture = find_architecture(config)
    spec = architecture.spec(config)
    check_partition(spec, placement.ranks)
    dtype = np.dtype(jnp.dtype("float32" if target.backend == "cpu" else "bfloat16"))
    params = architecture.params(spec)
    form = choose_requested(quantization, placement, dtype)
    shapes = place_params(abstract_params(params, dtype, quantization, scaled=form.scaled), params, spec, placement)
    layout = WeightLayout.from_shapes(shapes)
    weights = tuple(layout.pack_shapes(shapes))
    backend = GpuAttention(interpret=False) if target.backend == "gpu" else BACKENDS[target.backend]()
    page_size = backend.default_page_size(target.rows, spec.max_position_embeddings)
    groups = make_groups(local_caches(architecture.cache(spec), num_devices))
    types = CacheTypes(choose_page_type(kv_cache_dtype, dtype), dtype)
    page_bytes = sum(bytes_per_page(backend, group, page_size=page_size, types=types) for group in groups)
    # The sizes of groups differ, and that of no other array is likely to be the same.
    num_pages = [PAGE_BYTES // page_bytes - 3 - index for index in range(len(groups))]
    make = partial(make_pages, backend, groups, num_pages=num_pages, page_size=page_size, types=types)

    def place(leaf: Any) -> Any:
        shape = (num_devices * leaf.shape[0], *leaf.shape[1:])
        return jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=placement.sharding(STACKED))

    pages = jax.tree.map(place, jax.eval_shape(make))
    column: Any = jax.ShapeDtypeStruct((target.rows + 1,), jnp.int32, sharding=placement.replicated)
    unused: Any = None
    state = DeviceState(pages, RowState(column, column), unused)
    table = ProgramTable(
        model=ModelContext(spec, dtype, layout, backend, page_size, groups, placement.ranks),
        buckets=Buckets(decode=(8, DECODE_ROWS), prefill=(CHUNK_TOKENS,)),
        max_pages_per_row=num_pages_for(spec.max_position_embeddings, page_size),
        vocab_size=spec.vocab_size,
        num_rows=target.rows + 1,
        logprobs_config=LogprobsConfig(5, num_candidates=2),
        batch_invariant=False,
        all_logprobs=False,
        placement=placement,
    )
    return Programs(table, weights, state)


def compile_model(
    target: Target,
    devices: tuple[Any, ...],
    model: str,
    config: dict[str, Any],
    kv_cache_dtype: str = "auto",
    quantization: str = "none",
) -> Iterator[Record]:
    """Compile the programs of a model one after the other and yield what is predicted of each."""
    from jaxserve.engine.program_table import CopyPages, Sample
    from jaxserve.sampling.sampler import SampleMode

    programs = _plan(target, devices, config, kv_cache_dtype, quantization)
    table = programs.table
    about = {"kind": "compiled", "target": target.name, "devices": len(devices), "model": model}
    about |= {"kv_cache_dtype": kv_cache_dtype} | ({} if quantization == "none" else {"quantization": quantization})
    for key, rows, has_pages in (
        (table.decodes[-1], DECODE_ROWS, True),
        (table.prefills[0], table.prefills[0].rows, True),
        (Sample(DECODE_ROWS, SampleMode.GREEDY), DECODE_ROWS, False),
        (CopyPages(), 0, True),
    ):
        record = about | {"page_size": table.model.page_size, "program": str(key)}
        started = time.perf_counter()
        try:
            with table.placement.as_default(), tell_kernels(target, devices[0], len(devices)):
                lowered = key.lower(table, programs.weights, programs.state)
            compiled = lowered.compile()
        except Exception as error:  # what a compiler refuses is what is looked for
            yield record | {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
            continue
        record |= {"compile_s": time.perf_counter() - started}
        yield record | _predict(compiled, programs, rows, has_pages, len(devices))


def _predict(compiled: Any, programs: Programs, rows: int, has_pages: bool, num_devices: int) -> Record:
    """Return what the compiler says of a program, and whether it passes."""
    import jax

    from jaxserve.layers.scaled_weight import ScaledWeight

    table, leaves = programs.table, jax.tree.leaves(programs.state.pages)
    layer_sizes = {math.prod(leaf.shape) // num_devices for leaf in leaves}
    memory, text = compiled.memory_analysis(), compiled.as_text() or ""
    vocab_sizes = {table.padded_vocab_size, table.padded_vocab_size // num_devices}
    moves = find_moves(text, partial(_is_large, layer_sizes=layer_sizes, rows=rows, vocab_sizes=vocab_sizes))
    pool = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves) // num_devices
    is_in_place = not has_pages or memory.alias_size_in_bytes >= pool
    expanded = find_expanded(text, _packed_sizes(programs.weights))
    return {
        "outcome": "failed" if moves or expanded or not is_in_place else "passed",
        "packed_weights": sum(isinstance(weight, ScaledWeight) for weight in programs.weights),
        "code_bytes": memory.generated_code_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "is_in_place": is_in_place,
        "large_moves": moves,
        "expanded_weights": expanded,
        "collectives": count_collectives(text),
    }


def _packed_sizes(weights: tuple[Any, ...]) -> set[int]:
    """Return the numbers of values of each packed weight on a device."""
    from jaxserve.layers.scaled_weight import ScaledWeight

    return {
        math.prod(weight.data.sharding.shard_shape(weight.data.shape)) * (2 if weight.kind == "int4" else 1)
        for weight in weights
        if isinstance(weight, ScaledWeight)
    }


def _is_large(shape: tuple[int, ...], *, layer_sizes: set[int], rows: int, vocab_sizes: set[int]) -> bool:
    size = math.prod(shape)
    return size in layer_sizes or any(
        size == rows * vocab_size and shape[-1] == vocab_size for vocab_size in vocab_sizes
    )


def line_of(record: Record) -> str:
    """Return one record as a line of the table."""
    start = f"{record['target']:5}{record['devices']:3}  {record['model']:14}{record['program'][:44]:45}"
    if "why" in record:
        return f"{start} FAILED {record['why'][:160]}"
    collectives = ", ".join(f"{count} {name}" for name, count in record["collectives"].items()) or "no collectives"
    faults = "" if record["is_in_place"] else ", pages are copied"
    faults += "".join(f", {count} {move}" for move, count in record["large_moves"].items())
    faults += "".join(f", {count} expanded {weight}" for weight, count in record["expanded_weights"].items())
    sizes = f"{record['code_bytes'] / 2**20:7.1f} MiB code {record['temporary_bytes'] / 2**20:8.1f} MiB temporary"
    return f"{start} {record['outcome']} {sizes}  {collectives}{faults}"


def _compile_all(arguments: argparse.Namespace) -> list[Record]:
    """Compile for one target, in this process."""
    target = TARGETS[arguments.targets[0]]
    prepare_environment(target)
    devices = describe_devices(target, arguments.devices)
    records = []
    for model in arguments.model:
        config = tiny_config(COMPILED[model]) if arguments.tiny else dict(COMPILED[model])
        if arguments.layers:
            # A model with two kinds of layers has one of the second kind among its first six.
            has_windows = "sliding_window" in config
            config["num_hidden_layers"] = 6 if has_windows else arguments.layers
        for record in compile_model(target, devices, model, config, arguments.kv_cache_dtype, arguments.quantization):
            print(line_of(record), flush=True)
            records.append(record)
    return records


def main(words: Sequence[str]) -> int:
    """Compile for the targets that the words name; return 1 if a program fails, else 0."""
    parser = argparse.ArgumentParser(
        prog="device compile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", metavar="TARGET", choices=sorted(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--model", nargs="+", default=list(COMPILED), choices=sorted(COMPILED))
    parser.add_argument("--devices", type=int, default=1, help="that hold the model together; at most 4")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--kv-cache-dtype", default="auto", metavar="TYPE", help="as of jaxserve serve")
    parser.add_argument("--quantization", default="none", help="how weights are packed")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--json", type=Path, help="write every record here")
    arguments = parser.parse_args(words)
    print("Predicted by compilers; nothing ran.", flush=True)
    if len(arguments.targets) > 1:  # the compilers do not share a process
        options = [word for word in words if word not in TARGETS]
        commands = ([sys.executable, str(PROGRAM), "compile", target, *options] for target in arguments.targets)
        return max(subprocess.run(command, env=os.environ).returncode for command in commands)
    records = _compile_all(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1))
    return int(any(record["outcome"] == "failed" for record in records))
