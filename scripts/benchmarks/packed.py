"""Steps with plain and packed weights, in turns, so that other load on the machine slows all of them alike.

    scripts/bench packed [--model PATH] [--context 128] [--repeats 7] [--json FILE]

Measures every decode bucket at one context and prompts of every chunk size, with float32, int8 and int4 weights and,
if the model is a .gguf file that has some, with its blocks. Beside wall time stands processor time of all cores, which
other load disturbs less.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from jaxserve.config import DEFAULT_MODEL, EngineConfig, QuantizationChoice
from jaxserve.engine.build import LoadedEngine, build
from jaxserve.engine.plan import NO_MASKS, StepPlan
from jaxserve.layers.quant import PackedWeight, packed_matmul
from jaxserve.sampling.sampler import SampleMode
from scripts.benchmarks.plans import decode_plan, prefill_plan
from scripts.model_checks.perplexity import find_blocks
from scripts.model_gallery import find

KINDS: tuple[QuantizationChoice, ...] = ("none", "int8", "int4")
NUM_PAGES = 640  # of each engine; rows share them, since nobody reads the answer


def build_all(model: str) -> dict[str, LoadedEngine]:
    """One engine for each kind of weights that the model can have."""
    path = find(model)
    kinds = (*KINDS, "blocks") if find_blocks(path) else KINDS
    settings = {"model": str(path), "num_gpu_blocks_override": NUM_PAGES}
    return {kind: build(EngineConfig(quantization=kind, **settings)) for kind in kinds}


def measure_kinds(
    built: Mapping[str, LoadedEngine], cases: Mapping[str, Callable[[LoadedEngine], StepPlan]], rounds: int
) -> list[dict[str, Any]]:
    """The best of some rounds of every case with every kind, in milliseconds. A round asks each kind once."""
    best: dict[tuple[str, str], tuple[float, float]] = {}
    for name, plan_for in cases.items():
        plans = {kind: plan_for(one) for kind, one in built.items()}
        for _ in range(rounds + 1):
            for kind, one in built.items():
                wall, processor = time.perf_counter(), time.process_time()
                runner = one.engine.runner
                runner.fetch(runner.sample(runner.forward(plans[kind]), NO_MASKS))
                took = time.perf_counter() - wall, time.process_time() - processor
                least = best.get((name, kind), took)
                best[name, kind] = min(least[0], took[0]), min(least[1], took[1])
    return [
        {
            "step": name,
            **{f"{kind}_ms": best[name, kind][0] * 1e3 for kind in built},
            **{f"{kind}_processor_ms": best[name, kind][1] * 1e3 for kind in built},
        }
        for name in cases
    ]


def measure_products(built: Mapping[str, LoadedEngine], rounds: int) -> dict[str, Any]:
    """The products of a decode step of one row and nothing between them: what is left of a step is not reading weights.

    Each takes a vector that depends on the one before, so they run one after the other, as in a step.
    """
    programs = {kind: (jax.jit(_in_a_row), _matrices(one)) for kind, one in built.items()}
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds + 1):
        for kind, (program, matrices) in programs.items():
            wall, processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(program(matrices))
            took = time.perf_counter() - wall, time.process_time() - processor
            least = best.get(kind, took)
            best[kind] = min(least[0], took[0]), min(least[1], took[1])
    return {
        "step": "its products alone",
        **{f"{kind}_ms": best[kind][0] * 1e3 for kind in built},
        **{f"{kind}_processor_ms": best[kind][1] * 1e3 for kind in built},
    }


def _matrices(one: LoadedEngine) -> list[Any]:
    """All matrices, laid out [in, out]; a table of the vocabulary as [out, in] in a tuple of its own."""
    runner: Any = one.engine.runner
    leaves = runner.executor.table.model.weights.unpack(runner.executor.weights)
    return [
        (leaf,) if path[-1] == "table" and not isinstance(leaf, PackedWeight) else leaf
        for path, leaf in leaves.items()
        if isinstance(leaf, PackedWeight) or leaf.ndim == 2
    ]


def _in_a_row(matrices: list[Any]) -> jax.Array:
    carried = jnp.float32(0)
    for matrix in matrices:
        if isinstance(matrix, PackedWeight):
            (y,) = packed_matmul(jnp.full((1, matrix.width_in), 0.5) + 1e-6 * carried, matrix)
        elif isinstance(matrix, tuple):
            y = jnp.einsum("bd,vd->bv", jnp.full((1, matrix[0].shape[1]), 0.5) + 1e-6 * carried, matrix[0])
        else:
            y = jnp.einsum("ti,io->to", jnp.full((1, matrix.shape[0]), 0.5) + 1e-6 * carried, matrix)
        carried = jnp.max(y)  # of all of it, lest the compiler compute a part
    return carried


def show_kinds(rows: list[dict[str, Any]], kinds: Sequence[str], title: str) -> None:
    """Print every step with each kind, and what the others gain over the first."""
    titles = [*(f"{kind} ms" for kind in kinds), *(f"{kind} cpu ms" for kind in kinds)]
    table = Table("step", *titles, *(f"{kind} gains" for kind in kinds[1:]), title=f"{title}: best of interleaved runs")
    for row in rows:
        numbers = [row[f"{kind}_{unit}"] for unit in ("ms", "processor_ms") for kind in kinds]
        gains = [f"{row[f'{kinds[0]}_ms'] / row[f'{kind}_ms']:.2f} x" for kind in kinds[1:]]
        table.add_row(row["step"], *(f"{number:.2f}" for number in numbers), *gains)
    Console(width=180).print(table)


def compare_packed(model: str, context: int, repeats: int) -> list[dict[str, Any]]:
    """Measure every decode bucket at a context, and prompts of every chunk size, with every kind of weights."""
    built = build_all(model)
    buckets = built["none"].buckets
    cases = {
        f"decode, {rows} rows": partial(decode_plan, rows=rows, context=context, mode=SampleMode.GREEDY)
        for rows in buckets.decode
    } | {f"prefill {tokens}": partial(prefill_plan, tokens=tokens, start=0) for tokens in buckets.prefill}
    results = measure_kinds(built, cases, repeats)
    results.insert(1, measure_products(built, repeats))
    for engine in built.values():
        engine.engine.close()
    return results


def main(words: Sequence[str]) -> int:
    """Compare the kinds of weights, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench packed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args(words)
    results = compare_packed(arguments.model, arguments.context, arguments.repeats)
    kinds = [name.removesuffix("_processor_ms") for name in results[0] if name.endswith("_processor_ms")]
    show_kinds(results, kinds, "packed weights")
    if arguments.json:
        arguments.json.write_text(json.dumps({"packed": results}, indent=1))
    return 0
