"""Attention's contract, compiled on the device at hand: every backend that claims it, held to the reference.

The reference computes in float32 at the highest precision from the very numbers that the backend gets, bfloat16
rounding included. Dead slots hold NaN. Used by scripts/device run and rehearse.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention import BACKENDS, AttentionBackend, AttentionInputs, list_backends
from jaxserve.attention.reference import ReferenceAttention
from jaxserve.errors import BadConfig
from jaxserve.parallel.placement import Placement

PAGE = 16
# A backend named after a platform is for that platform; the reference is for all.
HOME = {"cpu": "cpu", "native": "cpu", "gpu": "gpu", "mosaic": "tpu", "tpu": "tpu"}
# Answers are averages of numbers around 1. GPUs multiply float32 with 10 bits (TF32) unless told otherwise.
TOLERANCE = {"float32": 5e-3, "bfloat16": 3e-2}


@dataclass(frozen=True)
class Case:
    """The last `columns` tokens of every row are queries, as many as it has; length 0 is a row of padding."""

    name: str
    lengths: tuple[int, ...]
    columns: int = 1
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 128
    how: dict[str, Any] = field(default_factory=dict)


CASES = (
    Case("decode at page boundaries", (1, 15, 16, 17, 33, 300, 0)),
    Case("decode behind 5000 tokens", (5000, 1, 129, 128, 127)),
    Case("a whole prompt", (256,), 256),
    Case("a chunk behind a prefix", (1000,), 64),
    Case("chunks of several rows", (64, 0, 40, 33), 16),
    Case("decode with a window", (1000, 20, 5), how={"window": 128}),
    Case("a chunk with a window", (300,), 64, how={"window": 100}),
    Case("decode with a soft cap", (200, 7), how={"softcap": 5.0}),
    Case("a chunk with a soft cap and a window", (200,), 32, how={"softcap": 5.0, "window": 50}),
    *(Case(f"decode, {n} heads on {k}", (70, 3), heads=n, kv_heads=k) for n, k in ((1, 1), (4, 4), (24, 8), (16, 1))),
    *(Case(f"a chunk, {n} heads on {k}", (70,), 16, heads=n, kv_heads=k) for n, k in ((4, 4), (6, 2), (16, 1))),
    *(Case(f"decode, heads of {size}", (70, 3), head_dim=size) for size in (64, 80, 96, 192, 256)),
    *(Case(f"a chunk, heads of {size}", (70,), 16, head_dim=size) for size in (64, 80, 96, 192, 256)),
)
TINY = (
    Case("decode", (1, 17, 0), heads=4, head_dim=32),
    Case("a chunk with a window", (40,), 16, heads=4, head_dim=32, how={"window": 10}),
)


def run(
    cases: tuple[Case, ...], placement: Placement, *, interpreted: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    """A record per backend, dtype and case. `interpreted` names backends that run here though made for elsewhere."""
    platform = placement.platform
    for name in BACKENDS:
        if HOME.get(name, platform) != platform and name not in interpreted:
            yield {"kind": "contract", "backend": name, "outcome": "skipped", "why": f"not made for {platform}"}
            continue
        for dtype in TOLERANCE:
            for case in cases:
                record = {"kind": "contract", "backend": name, "dtype": dtype, "case": case.name}
                try:
                    yield record | compare(make_backend(name, dtype, placement), case, dtype)
                except BadConfig as refusal:
                    yield record | {"outcome": "refused", "why": str(refusal)}
                except Exception as error:  # one broken kernel must not hide what the others do
                    yield record | {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:500]}


def make_backend(name: str, dtype: str, placement: Placement) -> AttentionBackend:
    """Return a backend with the sizes that it has on a device. Raises BadConfig if it does not run there."""
    return list_backends(name, placement.platform, dtype, placement.device_kind, placement.compute_capability)[0]


def compare(backend: Any, case: Case, dtype: str) -> dict[str, Any]:
    """The greatest difference from the reference, and what to make of it."""
    numbers = build(case, dtype)
    with jax.default_matmul_precision("highest"):
        expected = answer(ReferenceAttention(), case, "float32", numbers)
    got = answer(backend, case, dtype, numbers)
    error = float(np.abs(got - expected).max())
    right = error <= TOLERANCE[dtype]  # False for NaN, too
    return {"outcome": "passed" if right else "failed", "error": error, "tolerance": TOLERANCE[dtype]}


def answer(backend: Any, case: Case, dtype: str, numbers: tuple[Any, ...]) -> np.ndarray:
    """Compute attention with a backend, float32, in one compiled program."""
    step, arguments = prepare(backend, case, dtype, numbers)
    return np.asarray(step(*arguments), np.float32)


def prepare(backend: Any, case: Case, dtype: str, numbers: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return a jitted function, which writes all tokens and then attends, and its arguments."""
    query, key, value, slots, inputs = numbers
    num_pages = int(inputs.page_table_BW.max()) + 1
    pages = backend.make_pages(num_pages, PAGE, case.kv_heads, case.head_dim, jnp.dtype(dtype))
    pages = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), pages)

    @jax.jit
    def step(query, key, value, slots, pages, inputs):
        written = backend.write(pages, key, value, slots)
        return backend.attend(query, written, inputs, scale=case.head_dim**-0.5, **case.how)

    query, key, value = (jnp.asarray(each, dtype) for each in (query, key, value))
    return step, (query, key, value, slots, pages, inputs)


def build(case: Case, dtype: str) -> tuple[Any, ...]:
    """Random rows in shuffled pages: (query, keys, values, their slots, inputs), already rounded to dtype."""
    rng = np.random.default_rng(len(case.name))
    rows, columns = len(case.lengths), case.columns
    needed = [-(-length // PAGE) for length in case.lengths]
    order = iter(rng.permutation(np.arange(1, sum(needed) + 1)))
    table = np.zeros((rows, max(needed)), np.int32)
    for row, count in enumerate(needed):
        table[row, :count] = [next(order) for _ in range(count)]
    slots = [table[row, np.arange(n) // PAGE] * PAGE + np.arange(n) % PAGE for row, n in enumerate(case.lengths)]
    counts = [min(columns, length) for length in case.lengths]
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    position, slot = np.zeros(rows * columns, np.int32), np.zeros(rows * columns, np.int32)
    for row, (length, count) in enumerate(zip(case.lengths, counts, strict=True)):
        own = slice(start[row], start[row + 1])
        position[own] = np.arange(length - count, length)
        slot[own] = slots[row][length - count :]
    facts = (position, slot, table, np.array(case.lengths, np.int32), start)

    def numbers(tokens: int, heads: int) -> np.ndarray:
        drawn = rng.standard_normal((tokens, heads, case.head_dim), np.float32)
        return np.asarray(jnp.asarray(drawn, dtype), np.float32)

    tokens = sum(case.lengths)
    return (
        numbers(rows * columns, case.heads),
        numbers(tokens, case.kv_heads),
        numbers(tokens, case.kv_heads),
        np.concatenate(slots).astype(np.int32),
        AttentionInputs(*(jnp.asarray(fact) for fact in facts), max_queries_per_row=columns),
    )
