"""The measurements of scripts/device that need jax and numpy alone.

A part is a generator of records that stops when its time is over. A record is a flat dict that JSON can hold. A
timed one has seconds, and where a floor is known the least work behind it: weight_bytes, flops and context_bytes.
Whoever has measured the machine makes percentages of that.
"""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.sampling.columns import NUM_COLUMNS, pack_params, unpack_columns
from jaxserve.sampling.penalties import init, num_words
from jaxserve.sampling.sampler import LogitsInputs, LogprobsConfig, SampleMode, sample
from jaxserve.sampling_params import MAX_LOGPROB_TOKEN_IDS, SamplingParams
from scripts.device_checks import contract as attention_cases
from scripts.device_checks import product_contract as product_cases
from scripts.device_checks.report import Record
from scripts.device_checks.shapes import Work

ROUNDS = 3  # the fastest of these counts


@dataclass(frozen=True)
class Setting:
    """Options of a part. `deadline` is the time.monotonic() after which nothing new is started."""

    deadline: float
    tiny: bool = False
    attention: str = "auto"

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


def within(setting: Setting, records: Iterator[Record]) -> Iterator[Record]:
    """The records, until the time is over; then one that says so."""
    for record in records:
        yield record
        if setting.is_over:
            yield {"kind": "stopped", "why": "the time of this part is over; what is missing was not begun"}
            return


def contract(setting: Setting) -> Iterator[Record]:
    """Products of int4 weights and experts, and attention by every backend for this platform, against the reference."""
    platform = jax.default_backend()
    cases = product_cases.TINY if setting.tiny else product_cases.CASES
    products = product_cases.run(cases, platform, is_interpreted=setting.tiny)
    cases = attention_cases.TINY if setting.tiny else attention_cases.CASES
    interpreted = ("gpu",) if setting.tiny else ()  # runs anywhere, slowly; JAX's TPU kernel does not
    return within(setting, chain(products, attention_cases.run(cases, platform, interpreted=interpreted)))


def machine(setting: Setting) -> Iterator[Record]:
    """Measure what this device copies, reads and multiplies in a second."""
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    numbers = jnp.ones((2**21 if setting.tiny else 2**31) // jnp.dtype(dtype).itemsize, dtype)
    size = 256 if setting.tiny else 8192
    square = jnp.ones((size, size), dtype)
    repeats = 2 if setting.tiny else 10
    copy = best_s(jax.jit(lambda x: x + 1), (numbers,), repeats)
    read = best_s(jax.jit(lambda x: jnp.sum(x, dtype=jnp.float32)), (numbers,), repeats)
    product = best_s(jax.jit(lambda a, b: a @ b), (square, square), repeats)
    device = jax.devices()[0]
    yield {
        "kind": "machine",
        "device": device.device_kind,
        "platform": device.platform,
        "dtype": jnp.dtype(dtype).name,
        "copy_bytes_per_s": 2 * numbers.nbytes / copy,
        "read_bytes_per_s": numbers.nbytes / read,
        "flops_per_s": 2 * size**3 / product,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("jax", "jaxlib", "flax", "numpy", "torch", "transformers")},
    }


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def best_s(work: Callable[..., Any], arguments: tuple[Any, ...], repeats: int) -> float:
    """Seconds of one call among `repeats` enqueued at once, in the fastest of some rounds."""
    jax.block_until_ready(work(*arguments))
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(repeats - 1):
            work(*arguments)
        jax.block_until_ready(work(*arguments))
        times.append((time.perf_counter() - started) / repeats)
    return min(times)


SAMPLERS: dict[str, tuple[SampleMode, SamplingParams]] = {
    "greedy": (SampleMode.GREEDY, SamplingParams(temperature=0.0)),
    "draw": (SampleMode.SAMPLE, SamplingParams(temperature=0.8)),
    "draw, top_p": (SampleMode.SAMPLE, SamplingParams(temperature=0.8, top_p=0.95)),
    "penalties": (SampleMode.PROCESSORS, SamplingParams(temperature=0.8, repetition_penalty=1.1, presence_penalty=0.5)),
    "full": (SampleMode.LOGPROBS, SamplingParams(temperature=0.8, top_p=0.95, top_k=50, min_p=0.01)),
}


def sampler(setting: Setting) -> Iterator[Record]:
    """One token for every row from its logits; full is mask, filters, log-probabilities and the 20 best."""
    return within(setting, _sampler(setting.tiny))


def _sampler(tiny: bool) -> Iterator[Record]:
    vocab, batches = (512, (2,)) if tiny else (128256, (256, 32, 1))

    def shape_of(rows: int, mode: SampleMode) -> LogitsInputs | None:
        if mode < SampleMode.PROCESSORS:
            return None
        mask = jnp.full((rows, num_words(vocab)), 2**32 - 1, jnp.uint32)
        return LogitsInputs(
            init(rows, vocab), jnp.arange(rows), mask, jnp.zeros((rows, MAX_LOGPROB_TOKEN_IDS), jnp.int32)
        )

    def lower(rows: int, mode: SampleMode) -> Any:
        @jax.jit
        def step(logits, packed, position, shape):
            return sample(
                logits, unpack_columns(packed), position, shape, mode=mode, logprobs_config=LogprobsConfig(20)
            )

        shapes = [((rows, vocab), jnp.float32), ((rows, NUM_COLUMNS), jnp.int32), ((rows,), jnp.int32)]
        shape = jax.eval_shape(partial(shape_of, rows, mode))
        return step.lower(*(jax.ShapeDtypeStruct(*each) for each in shapes), shape).compile()

    with ThreadPoolExecutor(8) as pool:
        keys = [(rows, mode) for rows in batches for mode, _ in SAMPLERS.values()]
        programs = dict(zip(keys, pool.map(lambda key: lower(*key), keys), strict=True))
    for rows in batches:
        logits = 3 * jax.random.normal(jax.random.key(0), (rows, vocab), jnp.float32)
        for name, (mode, params) in SAMPLERS.items():
            packed = jnp.asarray(np.stack([pack_params(params, seed) for seed in range(rows)]))
            arguments = (logits, packed, jnp.arange(rows, dtype=jnp.int32), shape_of(rows, mode))
            seconds = best_s(programs[rows, mode], arguments, 2 if tiny else 10)
            about = {"kind": "sampler", "sampler": name, "rows": rows, "vocabulary": vocab}
            yield about | {"seconds": seconds} | asdict(Work(float(logits.nbytes), 0.0))
