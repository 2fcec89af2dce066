"""Times every compiled step against what this very machine can do, without server and scheduler.

    scripts/bench step [--model PATH] [--context 128 1024] [--repeats 7] [--json FILE]
        [--quantization int8] [--batch-invariant]

The floor of a step is the larger of two times: reading weights and the live keys and values once at the measured
read bandwidth, and its products at the measured float32 (or bfloat16) matrix rate (engine/roofline.py). Device ms is
the median of the repeats, host us what Python needs until the step is enqueued. What the scheduler takes on top, for
a batch that does not change, stands above the table; --batch-invariant adds a table of what that costs.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxserve.config import DEFAULT_MODEL, EngineConfig, Quantization
from jaxserve.engine.build import LoadedEngine, build
from jaxserve.engine.plan import NO_MASKS, StepPlan
from jaxserve.engine.roofline import PeakRates, measure_peak_rates
from jaxserve.sampling.sampler import SampleMode
from scripts.benchmarks.host import describe, measure_scheduler
from scripts.benchmarks.plans import decode_plan, prefill_plan

MODES = {"greedy": SampleMode.GREEDY, "drawn": SampleMode.SAMPLE, "logprobs": SampleMode.LOGPROBS}


def time_plan(built: LoadedEngine, plan: StepPlan, repeats: int) -> tuple[float, float]:
    """(median seconds until the tokens are home, median seconds until the step is enqueued)."""
    runner, whole, host = built.engine.runner, [], []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        handle = runner.sample(runner.forward(plan), NO_MASKS)
        host.append(time.perf_counter() - started)
        runner.fetch(handle)
        whole.append(time.perf_counter() - started)
    return statistics.median(whole[2:]), statistics.median(host[2:])


def measure(
    built: LoadedEngine, contexts: list[int], repeats: int, decode_rows: tuple[int, ...]
) -> tuple[PeakRates, list[dict[str, Any]]]:
    dtype = np.dtype(built.description["dtype"])
    packed = cast(Quantization, built.config.quantization)  # what `auto` became
    limits = measure_peak_rates(jax.devices()[0], dtype, probe_s=2.0, quantization=packed)
    assert built.roofline is not None
    roofline = built.roofline.with_peak_rates(limits)
    longest = built.config.max_model_len or 0
    cases: list[tuple[str, int, int, int, StepPlan]] = []
    for context in (n for n in contexts if n < longest):
        for name, mode in MODES.items():
            for rows in decode_rows:
                plan = decode_plan(built, rows, context, mode)
                cases.append((f"decode, {name}", rows, rows, context, plan))
    for tokens in built.buckets.prefill:
        for start in (n for n in (0, *contexts) if n + tokens < longest):
            cases.append(("prefill", 1, tokens, start, prefill_plan(built, tokens, start)))
    results = []
    for kind, rows, tokens, context, plan in cases:
        seconds, host = time_plan(built, plan, repeats)
        least = roofline.estimate(plan).roofline_s
        results.append(
            {
                "step": kind,
                "rows": rows,
                "tokens": tokens,
                "context": context,
                "device_ms": seconds * 1e3,
                "floor_ms": least * 1e3,
                "percent_of_floor": 100 * least / seconds,
                "tokens_per_s": tokens / seconds,
                "host_us": host * 1e6,
            }
        )
    return limits, results


def show(built: LoadedEngine, limits: PeakRates, host: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    console = Console()
    console.print(
        f"{built.description['model']} on {built.description['device']}, {built.description['dtype']}: {limits}"
    )
    for row in host:
        console.print(describe(row))
    table = Table("step", "rows", "tokens", "context", "device ms", "floor ms", "% of floor", "tokens/s", "host us")
    for row in results:
        numbers = (row["device_ms"], row["floor_ms"], row["percent_of_floor"], row["tokens_per_s"], row["host_us"])
        table.add_row(
            row["step"], *(str(row[key]) for key in ("rows", "tokens", "context")), *(f"{n:.1f}" for n in numbers)
        )
    console.print(table)


def measure_invariant(
    arguments: argparse.Namespace, results: list[dict[str, Any]], decode_rows: tuple[int, ...]
) -> list[dict[str, Any]]:
    """The same steps under --batch-invariant, each beside what it takes without; prompts by the token."""
    built = build(EngineConfig(model=arguments.model, quantization=arguments.quantization, batch_invariant=True))
    _, same = measure(built, arguments.context, arguments.repeats, decode_rows)
    built.engine.close()
    costs = []
    for ours in same:
        key = ("step", "context") if ours["step"] == "prefill" else ("step", "context", "rows")
        free = [other for other in results if all(other[name] == ours[name] for name in key)]
        if free:
            best = max(free, key=lambda other: other["tokens_per_s"])
            costs.append(
                {
                    **{name: ours[name] for name in ("step", "context", "rows")},
                    "default": best["tokens_per_s"],
                    "invariant": ours["tokens_per_s"],
                }
            )
    return costs


def show_costs(costs: list[dict[str, Any]]) -> None:
    columns = ("step", "context", "rows", "tokens/s", "batch-invariant", "of it")
    table = Table(*columns, title="what --batch-invariant costs")
    for row in costs:
        table.add_row(
            *(str(row[key]) for key in ("step", "context", "rows")),
            f"{row['default']:.1f}",
            f"{row['invariant']:.1f}",
            f"{100 * row['invariant'] / row['default']:.0f} %",
        )
    Console().print(table)


def main(words: Sequence[str]) -> int:
    """Measure every step, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--context", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument(
        "--quantization",
        choices=("none", "int8", "int4", "fp8", "blocks"),
        default="none",
        help="how weights are packed",
    )
    parser.add_argument("--batch-invariant", action="store_true", help="measure what batch invariance costs, too")
    arguments = parser.parse_args(words)
    built = build(EngineConfig(model=arguments.model, quantization=arguments.quantization))
    limits, results = measure(built, arguments.context, arguments.repeats, built.buckets.decode)
    host = measure_scheduler()
    show(built, limits, host, results)
    report: dict[str, Any] = {"about": built.description, "machine": asdict(limits), "host": host, "steps": results}
    built.engine.close()
    if arguments.batch_invariant:
        report["batch_invariant"] = measure_invariant(arguments, results, built.buckets.decode)
        show_costs(report["batch_invariant"])
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1))
    return 0
