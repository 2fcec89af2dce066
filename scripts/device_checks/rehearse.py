"""Compiles what the parts of `scripts/device run` compile, for a GPU that is not there: nothing runs.

    python3 scripts/device rehearse [PART ...] [--target h200x1] [--layers 2] [--programs WORD ...] [--json FILE]

Needs JAX's CUDA plugin (the project's extra `cuda`), so that the first minute with a GPU is not spent on what a
compiler would have said. The same functions lower the programs, with the same sizes. A program fails if it does not
compile, or if its arguments, results and temporaries are more than JAX takes of the GPU's memory. All layers of these
models are alike, so two are compiled; --layers 0 compiles all of them. What runs, `scripts/device run --tiny` shows in
toy shapes.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxserve.errors import BadConfig
from jaxserve.parallel.placement import Placement
from jaxserve.parallel.targets import TARGETS
from scripts.device_checks import contract, models, parts, product_contract, steps
from scripts.device_checks.compile_plan import describe_placement
from scripts.device_checks.report import Record
from scripts.device_checks.shapes import CONFIGS, STEP_PARTS

PARTS = ("contract", "machine", "sampler", "end_to_end", *STEP_PARTS)  # torch compiles what the peer runs
Lowering = tuple[str, Callable[[], Any]]
"""The name of a program and a function that lowers it."""


def list_lowerings(part: str, placement: Placement, num_layers: int) -> Iterator[Lowering]:
    """Yield what a part compiles on a device."""
    if part == "contract":
        yield from _list_products()
        yield from _list_attention(placement)
    elif part == "machine":
        for name, arguments in parts.list_rates(placement.platform, tiny=False).items():
            yield name, partial(jax.jit(parts.RATES[name]).lower, *arguments)
    elif part == "sampler":
        for rows in parts.SAMPLER_ROWS:
            for mode in dict.fromkeys(mode for mode, _ in parts.SAMPLERS.values()):
                yield f"{mode.name} {rows}", partial(parts.lower_sampler, rows, parts.SAMPLER_VOCAB, mode)
    elif part == "end_to_end":
        config = cut_layers(CONFIGS[steps.LOADED_MODEL], num_layers)
        yield from _list_planned(steps.LOAD.plan(config, "auto", placement))
    else:
        config = cut_layers(CONFIGS[STEP_PARTS[part]], num_layers)
        yield from _list_planned(steps.GRID.plan(config, "auto", placement))


def cut_layers(config: dict[str, Any], num_layers: int) -> dict[str, Any]:
    """Return the config.json of a model's first layers; 0: of all."""
    return config | {"num_hidden_layers": num_layers} if num_layers else config


def _list_products() -> Iterator[Lowering]:
    for dtype in contract.TOLERANCE:
        for case in product_contract.CASES:
            prepare = partial(product_contract.prepare, case, dtype, is_interpreted=False)
            yield f"{case.name}, {dtype}", partial(_lower_prepared, prepare)


def _list_attention(placement: Placement) -> Iterator[Lowering]:
    def prepare(name: str, case: contract.Case, dtype: str) -> tuple[Any, tuple[Any, ...]]:
        backend = contract.make_backend(name, dtype, placement)
        return contract.prepare(backend, case, dtype, contract.build(case, dtype))

    for name in ("reference", placement.platform):
        for dtype in contract.TOLERANCE:
            for case in contract.CASES:
                yield f"{name}, {case.name}, {dtype}", partial(_lower_prepared, partial(prepare, name, case, dtype))


def _lower_prepared(prepare: Callable[[], tuple[Any, tuple[Any, ...]]]) -> Any:
    """Lower a jitted function for arguments like those that are prepared with it."""
    with jax.default_device(jax.devices("cpu")[0]):  # one that is not there holds no arrays
        function, arguments = prepare()
    return function.lower(*jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), arguments))


def _list_planned(planned: models.Plan) -> Iterator[Lowering]:
    """Yield the programs of an engine, and those that make its weights."""
    for key, lower in planned.lowerings().items():
        yield repr(key), lower
    for shape, dtype in dict.fromkeys((leaf.shape, leaf.dtype.name) for leaf in planned.weights.values()):
        yield f"random_leaf {dtype}{list(shape)}", partial(models.random_leaf.lower, shape, dtype, 0)


def compile_one(lower: Callable[[], Any], placement: Placement) -> Record:
    """Compile a program and return what the compiler says of it."""
    started = time.perf_counter()
    try:
        with placement.as_default():
            lowered = lower()
        memory = lowered.compile().memory_analysis()
    except BadConfig as refusal:
        return {"outcome": "refused", "why": str(refusal)}
    except Exception as error:  # what a compiler refuses is what is looked for
        return {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
    needed = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    record: Record = {"seconds": time.perf_counter() - started, "bytes": needed}
    available = placement.memory(0).total_bytes
    if needed > available:
        return record | {"outcome": "failed", "why": f"it needs {needed} bytes of {available}"}
    return record | {"outcome": "passed"}


def line_of(record: Record) -> str:
    """Return one record as a line for people."""
    size = f"{record['bytes'] / 2**20:.1f} MiB, {record['seconds']:.1f} s" if "seconds" in record else ""
    words = filter(None, (record["outcome"], size, record.get("why")))
    return f"{record['part']}: {record['program']}: {', '.join(words)}"


def main(words: Sequence[str]) -> int:
    """Compile what the parts that the words name compile; return 1 if a program fails or there is none."""
    parser = argparse.ArgumentParser(
        prog="device rehearse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is named")
    parser.add_argument("--target", default="h200x1", choices=[name for name in TARGETS if name.endswith("x1")])
    parser.add_argument("--layers", type=int, default=2, help="of each model; 0: all")
    parser.add_argument("--programs", nargs="+", default=[""], metavar="WORD", help="beginnings of their names")
    parser.add_argument("--json", type=Path, help="write every record here")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    try:
        placement, records = describe_placement(TARGETS[arguments.target]), list[Record]()
    except BadConfig as refusal:  # no compiler
        parser.error(str(refusal))
    print(
        f"Compiled by jax {jax.__version__} for {placement.device_kind}, which is not there; nothing runs.", flush=True
    )
    for part in arguments.parts or PARTS:
        for program, lower in list_lowerings(part, placement, arguments.layers):
            if program.startswith(tuple(arguments.programs)):
                records.append({"part": part, "program": program} | compile_one(lower, placement))
                print(line_of(records[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"jax": jax.__version__, "records": records}, indent=1) + "\n")
    failed = sum(record["outcome"] == "failed" for record in records)
    print(f"{len(records)} programs compiled for {arguments.target}: {failed} failed.", flush=True)
    return int(failed > 0 or not records)
