"""Engines over random weights for scripts/device, the plans it times, and the least work of each.

Imports jax, flax and numpy only, so that it runs where nothing else is installed.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention import list_backends
from jaxserve.cache.groups import GroupSize, make_groups
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.pages import CacheTypes, bytes_per_page, make_pages
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.engine import Engine
from jaxserve.engine.executor import Executor
from jaxserve.engine.plan import Chunk, DecodeBatch, StepPlan
from jaxserve.engine.program_table import ProgramTable
from jaxserve.engine.runner import Runner
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.engine.step import ModelContext
from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.models.cost import Cost
from jaxserve.models.registry import abstract_decoder, find_architecture
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.placement import Placement, single_placement
from jaxserve.sampling.columns import empty_row
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode
from scripts.device_checks.shapes import Work, config_of

PAGE, MAX_LOGPROBS = 16, 5


def decode_work(cost: Cost, itemsize: int, rows: int, context: int) -> Work:
    weights = cost.body + cost.head
    per_token = sum(layers.num_layers * layers.cached_numbers for layers in cost.attention) * itemsize
    return Work(weights * itemsize, 2.0 * weights * rows, float(rows * context * per_token))


def prefill_work(cost: Cost, itemsize: int, tokens: int) -> Work:
    """One prompt from nothing: every token through the body, one through the head, half a square of attention."""
    attention = sum(layers.num_layers * layers.flops for layers in cost.attention) * tokens * tokens / 2
    return Work((cost.body + cost.head) * itemsize, 2.0 * cost.body * tokens + 2.0 * cost.head + attention)


@dataclass(frozen=True)
class Machine:
    """A runner over random weights, and what it was made for."""

    runner: Runner
    spec: DecoderSpec
    itemsize: int
    num_groups: int
    num_pages: int
    width: int
    backend: str


def make(model: str, *, tiny: bool, buckets: Buckets, max_len: int, pages_wanted: int, attention: str) -> Machine:
    """Weights made on the device leaf by leaf, as many pages as wanted and as fit, every shape compiled and run."""
    device = jax.devices()[0]
    config = config_of(model, tiny=tiny)
    architecture = find_architecture(config)
    spec = architecture.spec(config)
    dtype = np.dtype(jnp.dtype("float32" if device.platform == "cpu" else "bfloat16"))
    _, shapes = abstract_decoder(spec, dtype)
    weights = {path: random_leaf(leaf.shape, leaf.dtype.name, seed) for seed, (path, leaf) in enumerate(shapes.items())}
    layout = WeightLayout.from_shapes(weights)
    facts = device.device_kind, Placement((device,)).compute_capability
    backend = list_backends(attention, device.platform, dtype, *facts)[0]
    groups, types = make_groups(architecture.cache(spec)), CacheTypes(dtype, dtype)
    page_bytes = sum(bytes_per_page(backend, group, page_size=PAGE, types=types) for group in groups)
    stats = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    free = stats.get("bytes_limit", 2**40) - stats.get("bytes_in_use", 0)
    num_pages = 1 + min(pages_wanted, int(0.85 * free) // page_bytes)
    make = partial(make_pages, backend, groups, num_pages=[num_pages] * len(groups), page_size=PAGE, types=types)
    width = -(-max_len // PAGE)
    table = ProgramTable(
        model=ModelContext(spec, dtype, layout, backend, PAGE, groups),
        buckets=buckets,
        max_pages_per_row=width,
        vocab_size=spec.vocab_size,
        num_rows=buckets.decode[-1] + 1,
        logprobs_config=LogprobsConfig(MAX_LOGPROBS, num_candidates=2),
        batch_invariant=False,
        all_logprobs=False,
        placement=single_placement(),
    )
    executor = Executor(table, layout.pack(weights), make)
    executor.compile()
    return Machine(Runner(executor), spec, dtype.itemsize, len(groups), num_pages, width, backend.name)


@partial(jax.jit, static_argnums=(0, 1))
def random_leaf(shape: tuple[int, ...], dtype: str, seed: int) -> jax.Array:
    """Norms are ones; matrices are small, so that nothing overflows through 32 layers."""
    if len(shape) == 1:
        return jnp.ones(shape, dtype)
    return 0.02 * jax.random.normal(jax.random.key(seed), shape, dtype)


def table_for(machine: Machine, rows: int, tokens: int) -> np.ndarray:
    """Pages for `tokens` of every row. Where there are not enough, rows share: nobody reads the answer."""
    needed = -(-tokens // PAGE)
    table = np.zeros((rows, machine.width), np.int32)
    table[:, :needed] = (np.arange(rows * needed) % (machine.num_pages - 1) + 1).reshape(rows, needed)
    return table


def decode_plans(machine: Machine, rows: int, context: int, steps: int) -> list[StepPlan]:
    """A batch that decodes `steps` tokens behind `context` ones, greedily."""
    table = table_for(machine, rows, context + steps)
    return [
        StepPlan(
            row_updates=() if step else tuple((row, 0, context - 1) for row in range(rows)),
            decode=DecodeBatch(
                request_ids=tuple(range(rows)),
                epochs=(0,) * rows,
                row_B=np.arange(rows, dtype=np.int32),
                positions=(context + step - 1,) * rows,
                page_tables_BW=(table,) * machine.num_groups,
                sampling_BS=np.tile(empty_row(), (rows, 1)),
                mode=SampleMode.GREEDY,
            ),
        )
        for step in range(steps)
    ]


def prefill_plans(machine: Machine, tokens: int, chunk: int) -> list[StepPlan]:
    """One prompt in chunks, a step each."""
    table = table_for(machine, 1, tokens)[0]
    ids = np.arange(tokens, dtype=np.int32) % machine.spec.vocab_size
    return [
        StepPlan(
            chunks=(
                Chunk(
                    request_id=0,
                    epoch=0,
                    row=0,
                    start=start,
                    token_ids=ids[start : start + chunk],
                    page_tables_W=(table,) * machine.num_groups,
                    sampling_S=empty_row(),
                    mode=SampleMode.GREEDY,
                    is_last=start + chunk >= tokens,
                ),
            )
        )
        for start in range(0, tokens, chunk)
    ]


def engine_over(machine: Machine, *, rows: int, budget: int, max_len: int) -> Engine:
    """The whole loop, offline: scheduler, pages, prefix index."""
    sizes = [GroupSize(num_pages=machine.num_pages)] * machine.num_groups
    scheduler = Scheduler(
        CacheManager(sizes, page_size=PAGE),
        Stats(max_len),
        max_num_seqs=rows,
        max_num_batched_tokens=budget,
        max_chunk_tokens=budget,
        max_pages_per_row=machine.width,
        vocab_size=machine.spec.vocab_size,
        max_logprobs=MAX_LOGPROBS,
    )
    return Engine(scheduler, machine.runner, overlap=True)
