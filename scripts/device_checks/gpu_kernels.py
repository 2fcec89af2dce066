"""Compiles the attention kernels for GPUs that are not there, and predicts how near they come to the hardware's limits.

    python3 scripts/device gpu_kernels [--target h200 ...] [--case NAME ...] [--json FILE] [--markdown FILE]

Needs JAX's CUDA plugin with ptxas and nvdisasm (the project's extra `cuda`), and no GPU. Everything is a prediction
from compiled code; nothing runs. What the columns mean is in gpu_prediction.py.
"""

import argparse
import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxserve.parallel.gpus import GPUS, Gpu
from jaxserve.parallel.targets import TARGETS, describe_devices
from scripts.device_checks.gpu_code import KernelCode, dump_options, read_kernels, run_program
from scripts.device_checks.gpu_prediction import choose_kernel_config, predict, show_table
from scripts.device_checks.report import Record


@dataclass(frozen=True)
class Case:
    """A layer's attention in a batch of `rows` rows of `columns` queries each.

    context   Tokens of each row, for predicted shares; the page table is for rows of max_tokens.
    options   What `GpuAttention.attend` takes besides, and "config": fields of KernelConfig.
    """

    rows: int
    columns: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int = 1024
    max_tokens: int = 8192
    dtype: str = "bfloat16"
    pages_dtype: str | None = None
    sinks: bool = False
    options: dict[str, Any] = field(default_factory=dict)


CASES = {
    "decode Llama-3.1-8B, 32 rows": Case(32, 1, 32, 8, 128, max_tokens=131072),
    "decode Llama-3.1-8B, 256 rows": Case(256, 1, 32, 8, 128, max_tokens=131072),
    "decode Llama-3.1-8B, 1 row of 128k": Case(1, 1, 32, 8, 128, context=131072, max_tokens=131072),
    "decode Qwen3-0.6B, 32 rows": Case(32, 1, 16, 8, 128, max_tokens=40960),
    "decode gpt-oss-20B, 32 rows, window": Case(
        32, 1, 64, 8, 64, max_tokens=131072, sinks=True, options={"window": 128}
    ),
    "decode head size 256, soft cap": Case(32, 1, 16, 8, 256, options={"softcap": 50.0}),
    "decode head size 512": Case(32, 1, 32, 4, 512),
    "decode int8 pages": Case(32, 1, 32, 8, 128, pages_dtype="int8"),
    "decode fp8 pages": Case(32, 1, 32, 8, 128, pages_dtype="float8_e4m3fn"),
    "prefill Llama-3.1-8B, 2048": Case(1, 2048, 32, 8, 128, context=8192, max_tokens=131072),
    "prefill Qwen3-0.6B, 512": Case(1, 512, 16, 8, 128, context=8192, max_tokens=40960),
    "prefill Llama-3.2-1B, 2048": Case(1, 2048, 32, 8, 64, context=8192, max_tokens=131072),
    "prefill gpt-oss-20B, window": Case(
        1, 2048, 64, 8, 64, context=8192, max_tokens=131072, sinks=True, options={"window": 128}
    ),
    "prefill head size 256, soft cap": Case(1, 2048, 16, 8, 256, context=8192, options={"softcap": 50.0}),
    "prefill head size 512": Case(1, 2048, 32, 4, 512, context=8192),
    "prefill head size 96": Case(1, 2048, 32, 8, 96, context=8192),
    "prefill int8 pages": Case(1, 2048, 32, 8, 128, context=8192, pages_dtype="int8"),
    "prefill fp8 pages": Case(1, 2048, 32, 8, 128, context=8192, pages_dtype="float8_e4m3fn"),
    "prefill float32": Case(1, 2048, 32, 8, 128, context=8192, dtype="float32"),
}


def compile_case(case: Case, gpu: Gpu, device: Any, directory: Path) -> tuple[list[KernelCode], int]:
    """Compile a layer's write and attention; return its kernels and the bytes of its temporaries."""
    import jax
    import jax.numpy as jnp

    from jaxserve.attention import AttentionInputs
    from jaxserve.attention.gpu import GpuAttention

    options = {name: value for name, value in case.options.items() if name != "config"}
    backend = GpuAttention(interpret=False, config=choose_kernel_config(case, gpu))
    place, page_size, tokens = jax.sharding.SingleDeviceSharding(device), 16, case.rows * case.columns

    def shape(*sizes: int, dtype: Any = case.dtype) -> Any:
        return jax.ShapeDtypeStruct(sizes, jnp.dtype(dtype), sharding=place)

    make = jax.eval_shape(
        lambda: backend.make_pages(9999, page_size, case.kv_heads, case.head_dim, case.pages_dtype or case.dtype)
    )
    pages = jax.tree.map(lambda leaf: shape(*leaf.shape, dtype=leaf.dtype), make)
    sizes = (tokens,), (tokens,), (case.rows, case.max_tokens // page_size), (case.rows,), (case.rows + 1,)
    ints: list[Any] = [shape(*size, dtype="int32") for size in sizes]
    inputs = AttentionInputs(*ints, max_queries_per_row=case.columns)

    def layer(query: Any, key: Any, value: Any, pages: Any, inputs: Any, sinks: Any) -> Any:
        pages = backend.write(pages, key, value, inputs.slot_T)
        return backend.attend(query, pages, inputs, scale=0.1, sinks=sinks, **options), pages

    new = shape(tokens, case.kv_heads, case.head_dim)
    sinks = shape(case.heads) if case.sinks else None
    with jax.default_device(device):
        lowered = jax.jit(layer, donate_argnums=3).lower(
            shape(tokens, case.heads, case.head_dim), new, new, pages, inputs, sinks
        )
    compiled = lowered.compile(compiler_options=dump_options(directory))
    memory = compiled.memory_analysis()
    return read_kernels(directory, gpu.architecture), memory.temp_size_in_bytes if memory else 0


def check(gpu: Gpu, cases: dict[str, Case]) -> Iterator[Record]:
    """Compile the cases one after the other and yield what is predicted of each kernel."""
    (device,) = describe_devices(TARGETS[f"{gpu.name}x1"])
    for name, case in cases.items():
        record = {"kind": "gpu kernel", "target": gpu.name, "case": name}
        with tempfile.TemporaryDirectory() as directory:
            try:
                kernels, temporary_bytes = compile_case(case, gpu, device, Path(directory))
            except Exception as error:  # what a compiler refuses is what is looked for
                yield record | {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}
                continue
        for kernel in kernels:
            yield record | {"temporary_bytes": temporary_bytes} | predict(kernel, case, gpu)


def describe_run(words: Sequence[str]) -> Record:
    """Return when, by which command and with which versions a run was made."""
    import jax

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python3", "scripts/device", "gpu_kernels", *words]),
        "jax": jax.__version__,
        "ptxas": run_program("ptxas", "--version").splitlines()[-2],
        "is_predicted": True,
    }


def main(words: Sequence[str]) -> int:
    """Check the cases that the words name; return 1 if a kernel does not compile, or spills in a 16-bit type."""
    parser = argparse.ArgumentParser(
        prog="device gpu_kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", nargs="*", choices=sorted(GPUS), default=["h200"])
    parser.add_argument("--case", nargs="*", help="cases whose names begin so; all by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args(words)
    prefixes = tuple(arguments.case or [""])
    cases = {name: case for name, case in CASES.items() if name.startswith(prefixes)}
    records: list[Record] = []
    for target in arguments.target:
        for record in check(GPUS[target], cases):
            print(json.dumps(record), flush=True)
            records.append(record)
    table = show_table(records)
    print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": describe_run(words), "records": records}, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(table + "\n")
    return int(any(record["outcome"] == "failed" for record in records))
