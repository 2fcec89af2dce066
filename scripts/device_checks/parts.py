"""The measurements of `scripts/device run` that need jax and numpy alone.

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

from jaxserve.parallel.placement import single_placement
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
    placement = single_placement()
    cases = product_cases.TINY if setting.tiny else product_cases.CASES
    products = product_cases.run(cases, placement.platform, is_interpreted=setting.tiny)
    cases = attention_cases.TINY if setting.tiny else attention_cases.CASES
    interpreted = ("gpu",) if setting.tiny else ()  # runs anywhere, slowly; JAX's TPU kernel does not
    return within(setting, chain(products, attention_cases.run(cases, placement, interpreted=interpreted)))


RATES: dict[str, Callable[..., Any]] = {
    "copy": lambda x: x + 1,
    "read": lambda x: jnp.sum(x, dtype=jnp.float32),
    "product": lambda a, b: a @ b,
}


def list_rates(platform: str, *, tiny: bool) -> dict[str, tuple[Any, ...]]:
    """Return the shapes of the arguments of each of RATES."""
    dtype = jnp.dtype(jnp.float32 if platform == "cpu" else jnp.bfloat16)
    numbers = jax.ShapeDtypeStruct(((2**21 if tiny else 2**31) // dtype.itemsize,), dtype)
    square = jax.ShapeDtypeStruct(2 * (256 if tiny else 8192,), dtype)
    return {"copy": (numbers,), "read": (numbers,), "product": (square, square)}


def machine(setting: Setting) -> Iterator[Record]:
    """Measure what this device copies, reads and multiplies in a second."""
    device = jax.devices()[0]
    shapes, seconds = list_rates(device.platform, tiny=setting.tiny), dict[str, float]()
    for name, arguments in shapes.items():
        ones = tuple(jnp.ones(each.shape, each.dtype) for each in arguments)
        seconds[name] = best_s(jax.jit(RATES[name]), ones, 2 if setting.tiny else 10)
    (numbers,), (square, _) = shapes["copy"], shapes["product"]
    num_bytes = numbers.size * numbers.dtype.itemsize
    yield {
        "kind": "machine",
        "device": device.device_kind,
        "platform": device.platform,
        "dtype": numbers.dtype.name,
        "copy_bytes_per_s": 2 * num_bytes / seconds["copy"],
        "read_bytes_per_s": num_bytes / seconds["read"],
        "flops_per_s": 2 * square.shape[0] ** 3 / seconds["product"],
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


SAMPLER_ROWS, SAMPLER_VOCAB = (256, 32, 1), 128256
TINY_SAMPLER_ROWS, TINY_SAMPLER_VOCAB = (2,), 512


def sampler(setting: Setting) -> Iterator[Record]:
    """One token for every row from its logits; full is mask, filters, log-probabilities and the 20 best."""
    return within(setting, _sampler(setting.tiny))


def _sampler(tiny: bool) -> Iterator[Record]:
    batches, vocab = (TINY_SAMPLER_ROWS, TINY_SAMPLER_VOCAB) if tiny else (SAMPLER_ROWS, SAMPLER_VOCAB)
    with ThreadPoolExecutor(8) as pool:
        keys = [(rows, mode) for rows in batches for mode, _ in SAMPLERS.values()]
        compiled = pool.map(lambda key: lower_sampler(key[0], vocab, key[1]).compile(), keys)
        programs = dict(zip(keys, compiled, strict=True))
    for rows in batches:
        logits = 3 * jax.random.normal(jax.random.key(0), (rows, vocab), jnp.float32)
        for name, (mode, params) in SAMPLERS.items():
            packed = jnp.asarray(np.stack([pack_params(params, seed) for seed in range(rows)]))
            arguments = (logits, packed, jnp.arange(rows, dtype=jnp.int32), make_inputs(rows, vocab, mode))
            seconds = best_s(programs[rows, mode], arguments, 2 if tiny else 10)
            about = {"kind": "sampler", "sampler": name, "rows": rows, "vocabulary": vocab}
            yield about | {"seconds": seconds} | asdict(Work(float(logits.nbytes), 0.0))


def make_inputs(rows: int, vocab: int, mode: SampleMode) -> LogitsInputs | None:
    """Return what a sampler gets beside logits and parameters: masks that allow everything, no penalties."""
    if mode < SampleMode.PROCESSORS:
        return None
    mask = jnp.full((rows, num_words(vocab)), 2**32 - 1, jnp.uint32)
    no_ids = jnp.zeros((rows, MAX_LOGPROB_TOKEN_IDS), jnp.int32)
    return LogitsInputs(init(rows, vocab), jnp.arange(rows), mask, no_ids)


def lower_sampler(rows: int, vocab: int, mode: SampleMode) -> Any:
    """Lower the program that samples a token for each row."""

    @jax.jit
    def step(logits: Any, packed: Any, position: Any, inputs: LogitsInputs | None) -> Any:
        return sample(logits, unpack_columns(packed), position, inputs, mode=mode, logprobs_config=LogprobsConfig(20))

    shapes = [((rows, vocab), jnp.float32), ((rows, NUM_COLUMNS), jnp.int32), ((rows,), jnp.int32)]
    inputs = jax.eval_shape(partial(make_inputs, rows, vocab, mode))
    return step.lower(*(jax.ShapeDtypeStruct(*each) for each in shapes), inputs)
