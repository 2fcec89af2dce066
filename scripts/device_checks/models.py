"""Engines over random weights for scripts/device, the plans it times, and the least work of each.

Imports jax, flax and numpy only, so that it runs where nothing else is installed.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxserve.attention import list_backends
from jaxserve.cache.groups import GroupSize, make_groups
from jaxserve.cache.manager import CacheManager
from jaxserve.cache.pages import CacheTypes, ModelPages, bytes_per_page, make_pages
from jaxserve.engine.buckets import Buckets
from jaxserve.engine.engine import Engine
from jaxserve.engine.executor import Executor
from jaxserve.engine.plan import Chunk, DecodeBatch, StepPlan
from jaxserve.engine.program_memory import abstract_state
from jaxserve.engine.program_table import ProgramTable
from jaxserve.engine.runner import Runner
from jaxserve.engine.scheduler import Scheduler
from jaxserve.engine.stats import Stats
from jaxserve.engine.step import ModelContext
from jaxserve.engine.weight_layout import WeightLayout
from jaxserve.layers.param_spec import ParamPath
from jaxserve.models.cost import Cost
from jaxserve.models.registry import abstract_decoder, find_architecture
from jaxserve.models.spec import DecoderSpec
from jaxserve.parallel.placement import Placement
from jaxserve.sampling.columns import empty_row
from jaxserve.sampling.sampler import LogprobsConfig, SampleMode
from scripts.device_checks.shapes import Work

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
class Plan:
    """The programs of a model, and the shapes of what they are given; nothing is allocated.

    weights      Shape and type of each leaf.
    make_pages   Makes the pages of every layer.
    """

    table: ProgramTable
    weights: dict[ParamPath, Any]
    make_pages: Callable[[], ModelPages]
    num_pages: int

    def lowerings(self) -> dict[Hashable, Callable[[], Any]]:
        """Return for each program a function that lowers it, from shapes alone."""
        packed = self.table.model.weights.pack_shapes(self.weights)
        return self.table.make_lowerings(packed, abstract_state(self.table, jax.eval_shape(self.make_pages)))


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


def plan(
    config: dict[str, Any],
    placement: Placement,
    *,
    buckets: Buckets,
    max_len: int,
    pages_wanted: int,
    attention: str,
) -> Plan:
    """Return the programs of a model on one device, with as many pages as wanted and as fit beside the weights."""
    architecture = find_architecture(config)
    spec = architecture.spec(config)
    dtype = np.dtype(jnp.dtype("float32" if placement.platform == "cpu" else "bfloat16"))
    _, weights = abstract_decoder(spec, dtype)
    facts = placement.device_kind, placement.compute_capability
    backend = list_backends(attention, placement.platform, dtype, *facts)[0]
    groups, types = make_groups(architecture.cache(spec)), CacheTypes(dtype, dtype)
    page_bytes = sum(bytes_per_page(backend, group, page_size=PAGE, types=types) for group in groups)
    weight_bytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in weights.values())
    num_pages = 1 + min(pages_wanted, int(0.85 * placement.memory(weight_bytes).free_bytes) // page_bytes)
    table = ProgramTable(
        model=ModelContext(spec, dtype, WeightLayout.from_shapes(weights), backend, PAGE, groups),
        buckets=buckets,
        max_pages_per_row=-(-max_len // PAGE),
        vocab_size=spec.vocab_size,
        num_rows=buckets.decode[-1] + 1,
        logprobs_config=LogprobsConfig(MAX_LOGPROBS, num_candidates=2),
        batch_invariant=False,
        all_logprobs=False,
        placement=placement,
    )
    make = partial(make_pages, backend, groups, num_pages=[num_pages] * len(groups), page_size=PAGE, types=types)
    return Plan(table, weights, make, num_pages)


def make(planned: Plan) -> Machine:
    """Make the weights on the device, leaf by leaf, and compile every program."""
    table, shapes = planned.table, planned.weights
    weights = {path: random_leaf(leaf.shape, leaf.dtype.name, seed) for seed, (path, leaf) in enumerate(shapes.items())}
    model = table.model
    executor = Executor(table, model.weights.pack(weights), planned.make_pages)
    executor.compile()
    facts = model.dtype.itemsize, len(model.groups), planned.num_pages, table.max_pages_per_row, model.backend.name
    return Machine(Runner(executor), model.spec, *facts)


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
