"""Decode steps over a long context with pages of each type, in turns: scripts/bench caches [--context 4096] [--rows 8]

All engines stand in one process and take a step each in every round, so that other load on the machine slows all of
them alike. Every row has pages of its own, full of numbers. Packed weights leave less of a step beside its attention.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from jaxserve.config import DEFAULT_MODEL, EngineConfig, KVCacheDtype, Quantization
from jaxserve.engine.build import LoadedEngine, build
from jaxserve.sampling.sampler import SampleMode
from scripts.benchmarks.packed import measure_kinds, show_kinds
from scripts.benchmarks.plans import decode_plan, fill_pages

PAGE_TYPES: tuple[KVCacheDtype, ...] = ("float32", "bfloat16", "int8", "fp8_e4m3", "fp8_e5m2")
PAGE = 16


def build_engine(arguments: argparse.Namespace, page_type: KVCacheDtype) -> LoadedEngine:
    """Build an engine with pages of one type, with room for all rows."""
    num_pages = arguments.rows * -(-(arguments.context + 1) // PAGE) + 1
    return build(
        EngineConfig(
            model=arguments.model,
            quantization=arguments.quantization,
            kv_cache_dtype=page_type,
            block_size=PAGE,
            max_model_len=arguments.context + PAGE,
            max_num_seqs=arguments.rows,
            max_num_batched_tokens=max(64, arguments.rows),
            num_gpu_blocks_override=num_pages,
            roofline=False,
        )
    )


def compare_caches(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a decode step with every type of pages, milliseconds."""
    built = {page_type: build_engine(arguments, page_type) for page_type in PAGE_TYPES}
    for engine in built.values():
        fill_pages(engine)
    name = f"decode, {arguments.rows} rows, {arguments.context} tokens each"
    plan = partial(decode_plan, rows=arguments.rows, context=arguments.context, mode=SampleMode.GREEDY)
    results = measure_kinds(built, {name: plan}, arguments.repeats)
    for engine in built.values():
        engine.engine.close()
    return results


def main(words: Sequence[str]) -> int:
    """Compare the types of pages, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bench caches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--context", type=int, default=4096, metavar="TOKENS")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--quantization", choices=get_args(Quantization), default="none", help="how weights are packed")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    arguments = parser.parse_args(words)
    results = compare_caches(arguments)
    show_kinds(results, PAGE_TYPES, f"pages, {arguments.quantization} weights")
    if arguments.json:
        arguments.json.write_text(json.dumps({"caches": results}, indent=1) + "\n")
    return 0
