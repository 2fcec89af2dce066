"""Predicts what attention takes on TPUs that are not there: bundles of the compiled kernels against their limits.

    python3 scripts/device kernels [--target v5e ...] [--shape NAME ...] [--backend mosaic tpu]
        [--kind decode prefill] [--json FILE]

Needs libtpu, as `scripts/device compile` does. The final VLIW bundles of a kernel are its cycles or fewer; all branches
of a loop count, taken or not. What is computed from them and from the datasheets is a prediction, and nothing ran:

    decode    rows of the same context; `load` is the bundles in percent of the time to read what the rows see once,
              `time` the longer of bundles and copies, which go on at the same time, in percent of the same
    prefill   one prompt from its beginning; `peak` is the time of its products, of each query with the keys that it
              sees, in percent of the longer of bundles and copies
    write     of the decode step's tokens, in percent of the same as decode

JAX's kernel is compiled with a scatter, which is not counted, and not for heads above 128, which it takes in several
calls, or for sinks, which it has not.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxserve.parallel.targets import TARGETS, Target, TargetPlacement, describe_devices
from scripts.device_checks.bundles import find_kernel
from scripts.device_checks.report import Record
from scripts.device_checks.tpu_cycles import PAGE_SIZE, Kernel

PROGRAM = Path(__file__).resolve().parents[1] / "device"
DECODE_ROWS, CONTEXTS, PROMPTS = (32, 128), (128, 1024, 4096), (1024, 2048, 8192)
MAX_TOKENS, CHUNK = 8192, 2048
TILE_TOKENS = 16  # that are read and written for a new token, in bfloat16


CHIPS = {"v5e": TARGETS["v5e-1"], "v5p": TARGETS["v5p-8"], "v6e": TARGETS["v6e-1"]}


@dataclass(frozen=True)
class Shape:
    """Heads of a layer in bfloat16, and how it attends. With a latent_dim, head_dim is that of a latent vector."""

    heads: int
    kv_heads: int
    head_dim: int
    how: dict[str, Any] = field(default_factory=dict)
    latent_dim: int = 0

    @property
    def token_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        return (1 if self.latent_dim else 2) * self.kv_heads * self.head_dim * 2

    @property
    def flops(self) -> int:
        """Additions and multiplications of all heads for a query and a key."""
        return 2 * self.heads * (self.head_dim + (self.latent_dim or self.head_dim))


SHAPES = {
    "Llama-3.1-8B": Shape(32, 8, 128),
    "Qwen3-0.6B": Shape(16, 8, 128),
    "gpt-oss-20B": Shape(64, 8, 64, {"sinks": True}),
    "Gemma-2-9B": Shape(16, 8, 256, {"softcap": 50.0}),
    "64 heads on 4": Shape(64, 4, 128),
    "DeepSeek-V3 / 8": Shape(16, 1, 576, latent_dim=512),  # an eighth of the heads
    "Kimi-K2": Shape(64, 1, 576, latent_dim=512),
    "GLM-4.7-Flash": Shape(20, 1, 576, latent_dim=512),
}


def find_shape(name: str) -> Shape:
    """Return the shape of this name, or of the numbers of heads and their size, such as "16,8,128" or "64,8,64,sinks".

    Raises ValueError if it is neither.
    """
    if name in SHAPES:
        return SHAPES[name]
    heads, kv_heads, head_dim, *rest = name.split(",")
    return Shape(int(heads), int(kv_heads), int(head_dim), {"sinks": True} if rest == ["sinks"] else {})


def _compile(shape: Shape, backend: Any, device: Any, rows: int, tokens: int) -> tuple[Any, Record]:
    """Compile a write and attention for rows that have so many tokens together.

    Returns what the kernel is called with, None for JAX's, and what the compiler took and made. Raises RuntimeError if
    the pages would be copied.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from jaxserve.attention.inputs import AttentionInputs
    from jaxserve.attention.mosaic.attend import make_params

    def describe(*sizes: int, dtype: Any = jnp.bfloat16) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=SingleDeviceSharding(device))

    heads = (shape.kv_heads, shape.head_dim)
    if shape.latent_dim:
        backend, heads = backend.latent, (shape.latent_dim, shape.head_dim - shape.latent_dim)
    made = jax.eval_shape(lambda: backend.make_pages(2048, PAGE_SIZE, *heads, jnp.bfloat16))
    pages = jax.tree.map(lambda leaf: describe(*leaf.shape, dtype=leaf.dtype), made)
    sizes = ((tokens,), (tokens,), (rows, MAX_TOKENS // PAGE_SIZE), (rows,), (rows + 1,))
    facts = (describe(*each, dtype=jnp.int32) for each in sizes)
    inputs = AttentionInputs(*facts, max_queries_per_row=tokens // rows)
    sinks = describe(shape.heads) if shape.how.get("sinks") else None

    def step(query: Any, new: Any, pages: Any, inputs: Any, sinks: Any) -> Any:
        pages = backend.write(pages, *new, inputs.slot_T)
        how = shape.how if sinks is None else shape.how | {"sinks": sinks}
        return backend.attend(query, pages, inputs, scale=shape.head_dim**-0.5, **how), pages

    query = describe(tokens, shape.heads, shape.head_dim)
    keys = describe(tokens, shape.kv_heads, shape.head_dim)
    new = [describe(tokens, shape.head_dim)] if shape.latent_dim else [keys, keys]
    lowered = jax.jit(step, donate_argnums=2, keep_unused=True).lower(query, new, pages, inputs, sinks)
    began = time.monotonic()
    compiled = lowered.compile()
    seconds = time.monotonic() - began
    pool_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(pages))
    analysis = compiled.memory_analysis()
    if analysis is None or analysis.alias_size_in_bytes < pool_bytes:
        raise RuntimeError(f"not all {pool_bytes} bytes of pages are updated in place: {analysis}")
    config = getattr(backend, "config", None)
    params = None if config is None else make_params(config, query, pages, inputs, scale=1.0)
    return params, {"compile_s": round(seconds, 1), "code_bytes": analysis.generated_code_size_in_bytes}


def _predict(dump: Path, chip: Target, shape: Shape, name: str, params: Any, what: str, rows: int) -> Iterator[Record]:
    """Yield what the kernels that were compiled last need."""
    from jaxserve.attention import tpu
    from jaxserve.attention.mosaic import decode

    bytes_per_cycle, flops_per_cycle = chip.bytes_per_s / chip.clock_hz, chip.flops_per_s / chip.clock_hz
    if name == "mosaic":
        tile = decode.GRID_ROWS if what == "decode" else params.tile_queries
        kernel = Kernel(find_kernel(dump, f"paged_{what}"), params.block_tokens, tile, params)
        stored_bytes = shape.token_bytes * params.lanes // shape.head_dim if shape.latent_dim else shape.token_bytes
    else:
        stored_bytes = shape.token_bytes * -(-shape.head_dim // 128) * 128 // shape.head_dim
        block_tokens = max(1, tpu.BLOCK_BYTES // (stored_bytes * PAGE_SIZE)) * PAGE_SIZE
        most = tpu.DECODE_BLOCK_QUERIES if what == "decode" else tpu.BLOCK_QUERIES
        kernel = Kernel(find_kernel(dump, "ragged_paged_attention"), block_tokens, most)
    if what == "prefill":
        for tokens in PROMPTS:
            bundles, fetched = kernel.prefill_cycles(tokens, shape.kv_heads)
            longest = max(bundles, fetched * stored_bytes / bytes_per_cycle)
            least = shape.flops * tokens * (tokens + 1) / 2 / flops_per_cycle
            sizes = {"tokens": tokens, "bundles": round(bundles), "cycles": round(longest)}
            yield {"kind": "prefill", **sizes, "peak": round(100 * least / longest)}
        return
    for count in (count for count in DECODE_ROWS if count <= rows):
        for context in CONTEXTS:
            least = count * context * shape.token_bytes / bytes_per_cycle
            bundles, fetched = kernel.decode_cycles(count, context)
            longest = max(bundles, fetched * stored_bytes / bytes_per_cycle)
            sizes = {"rows": count, "context": context, "bundles": round(bundles)}
            yield {
                "kind": "decode",
                **sizes,
                "cycles": round(longest),
                "load": round(100 * bundles / least),
                "time": round(100 * longest / least),
            }
            if name == "mosaic":
                written = Kernel(find_kernel(dump, "page_write"), 0, 0).write_cycles(count)
                copied = 2 * count * shape.token_bytes * TILE_TOKENS / bytes_per_cycle
                sizes |= {"bundles": round(written), "cycles": round(max(written, copied))}
                load, time_ = (round(100 * each / least) for each in (written, max(written, copied)))
                yield {"kind": "write", **sizes, "load": load, "time": time_}


def _run_here(
    target_name: str, shapes: Sequence[str], backends: Sequence[str], kinds: Sequence[str], dump: Path
) -> None:
    """Compile for one target in this process, which libtpu gives its bundles, and print a record a line."""
    from jaxserve.attention import BACKENDS

    chip = CHIPS[target_name]
    device = describe_devices(chip)[0]
    placement = TargetPlacement((device,), target=chip)
    for name in shapes:
        for backend in backends:
            for what in kinds:
                rows, tokens = (max(DECODE_ROWS), max(DECODE_ROWS)) if what == "decode" else (1, CHUNK)
                about = {"target": target_name, "model": name, "backend": backend}
                shape = find_shape(name)
                if backend == "tpu" and (shape.head_dim > 128 or "sinks" in shape.how):
                    continue  # several calls of the kernel, or none
                try:
                    with placement.as_default():
                        params, cost = _compile(shape, BACKENDS[backend](), device, rows, tokens)
                    for record in _predict(dump, chip, shape, backend, params, what, rows):
                        print(json.dumps(about | record | cost), flush=True)
                except Exception as error:  # a kernel that does not compile must not hide what the others do
                    why = f"{type(error).__name__}: {error}"[:300]
                    print(json.dumps(about | {"kind": what, "outcome": "failed", "why": why}), flush=True)
                for path in dump.iterdir():
                    path.unlink()


def run_apart(target: str, shapes: Sequence[str], backends: Sequence[str], kinds: Sequence[str]) -> list[Record]:
    """Compile for one of CHIPS in a process of its own, and return its records."""
    with tempfile.TemporaryDirectory() as dump:
        options = ["--target", target, "--shape", *shapes, "--backend", *backends, "--kind", *kinds, "--dump", dump]
        told = f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true --xla_jf_dump_hlo_text=false"
        environment = os.environ | {"LIBTPU_INIT_ARGS": told + " --xla_jf_dump_llo_html=false"}
        command = [sys.executable, str(PROGRAM), "kernels", *options]
        records = []
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    records.append(json.loads(line))
                    print(" ".join(f"{key} {value}" for key, value in records[-1].items()), flush=True)
        if process.returncode:
            records.append({"target": target, "outcome": "failed", "why": f"ended with status {process.returncode}"})
        return records


def main(words: Sequence[str]) -> int:
    """Predict for the targets that the words name; return 1 if a kernel does not compile, else 0."""
    parser = argparse.ArgumentParser(
        prog="device kernels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", nargs="+", default=list(CHIPS), choices=sorted(CHIPS))
    parser.add_argument("--shape", nargs="+", default=list(SHAPES), help=f"{', '.join(SHAPES)}, or 16,8,128")
    parser.add_argument("--backend", nargs="+", default=["mosaic", "tpu"], choices=["mosaic", "tpu"])
    parser.add_argument("--kind", nargs="+", default=["decode", "prefill"], choices=["decode", "prefill"])
    parser.add_argument("--json", type=Path, help="write every record here")
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.dump:
        _run_here(arguments.target[0], arguments.shape, arguments.backend, arguments.kind, arguments.dump)
        return 0
    print("Predicted from compiled kernels; nothing ran.", flush=True)
    records = [
        record
        for target in arguments.target
        for record in run_apart(target, arguments.shape, arguments.backend, arguments.kind)
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")
    return int(any(record.get("outcome") == "failed" for record in records))
