"""Plans of one decode step or one prefill chunk, for timing: nobody reads the output."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxserve.engine.build import LoadedEngine
from jaxserve.engine.plan import Chunk, DecodeBatch, StepPlan
from jaxserve.sampling.columns import empty_row, pack_params
from jaxserve.sampling.sampler import SampleMode
from jaxserve.sampling_params import SamplingParams


def fill_pages(built: LoadedEngine) -> None:
    """Put numbers into all pages of an engine on a CPU, as a conversation would.

    Pages that nobody has written are all the same 4 KiB of zeros of Linux, which the processor's own cache keeps:
    reading them costs nothing.
    """
    runner: Any = built.engine.runner
    executor = runner.executor
    pages = jax.tree.map(_fill, executor.state.pages)
    executor.state = replace(executor.state, pages=pages)


def _fill(array: jax.Array) -> jax.Array:
    """Make an array like this one of numbers that repeat every 4 MiB or so, and delete this one."""
    some = np.random.default_rng(0).uniform(-1, 1, min(array.size, 1 << 20)).astype(np.float32)
    some = (100 * some).astype(np.int8) if array.dtype == np.int8 else some.astype(array.dtype)
    filled = np.resize(some, array.shape)
    placement = array.sharding
    array.delete()
    return jax.device_put(filled, placement)


def decode_plan(built: LoadedEngine, rows: int, context: int, mode: SampleMode) -> StepPlan:
    """Plan a decode step of rows with `context` tokens each; rows may share pages."""
    page, width = built.config.page_size, -(-(built.config.max_model_len or 0) // built.config.page_size)
    needed = -(-(context + 1) // page)
    tables = []
    for group in built.cache_size.groups:
        tables.append(np.zeros((rows, width), np.int32))
        order = np.arange(rows * needed) % (group.num_pages - 1) + 1
        tables[-1][:, :needed] = order.reshape(rows, needed)
    params = SamplingParams(temperature=0.0 if mode == SampleMode.GREEDY else 0.8, top_p=0.95)
    return StepPlan(
        row_updates=tuple((row, 0, context) for row in range(rows)),
        decode=DecodeBatch(
            request_ids=tuple(range(rows)),
            epochs=(0,) * rows,
            row_B=np.arange(rows, dtype=np.int32),
            positions=(context,) * rows,
            page_tables_BW=tuple(tables),
            sampling_BS=np.tile(pack_params(params, 1), (rows, 1)),
            mode=mode,
        ),
    )


def prefill_plan(built: LoadedEngine, tokens: int, start: int) -> StepPlan:
    """Plan a chunk of `tokens` tokens behind `start` tokens that are in the cache already."""
    one = decode_plan(built, 1, start + tokens, SampleMode.GREEDY).decode
    assert one is not None
    chunk = Chunk(
        request_id=0,
        epoch=0,
        row=0,
        start=start,
        token_ids=np.arange(tokens, dtype=np.int32) % built.spec.vocab_size,
        page_tables_W=tuple(table_BW[0] for table_BW in one.page_tables_BW),
        sampling_S=empty_row(),
        mode=SampleMode.GREEDY,
        is_last=True,
    )
    return StepPlan(chunks=(chunk,))
