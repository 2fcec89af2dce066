"""The scratch memory of a step, which pages must leave free: what the compiler says about the largest programs.

Programs have the shapes of the pages in them, and the pages get what the programs leave. So the largest programs are
compiled once for pages that leave no scratch, before there are any, and what they need is kept beside the programs:
later starts read a number. What they need does not depend on the number of pages, since pages are donated.
"""

import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax

from jaxserve.engine.compile import compile_all
from jaxserve.engine.device_state import DeviceState, init_rows
from jaxserve.engine.pooling_table import PoolingTable
from jaxserve.engine.program_table import Forward, MultiStep, ProgramKey, ProgramTable, PromptLogprobs, Sample
from jaxserve.engine.programs import ProgramStore
from jaxserve.sampling import penalties

log = logging.getLogger(__name__)


def measure_scratch(table: ProgramTable, weights: Sequence[Any], pages: Any, store: ProgramStore) -> int:
    """Return the bytes that a step needs on each device beside weights and pages.

    A step enqueues a forward pass, the log-probabilities of its prompts and a sampler, and what they return lives until
    the host has it, so the needs of all three are added up. The code of all programs is counted, of each kind by
    the largest.

    table     The programs.
    weights   The shapes of the weights.
    pages     The shapes of the pages, of any number.
    store     The programs of earlier starts, for these shapes.
    """
    kinds = list_largest(table)
    keys = [key for kind in kinds for key in kind]
    lowerings = table.make_lowerings(weights, abstract_state(table, pages))
    fact = ("scratch, code by kind", len(lowerings), *keys)
    known = store.load_number(fact)
    if known is not None:
        return known
    programs = compile_all({key: lowerings[key] for key in keys}, store, None)
    stats = {key: programs[key].memory_analysis() for key in keys}
    if None in stats.values():
        log.warning("the compiler does not say what memory programs need; none is left for them")
        return 0
    scratch = _count_code(lowerings, {key: each.generated_code_size_in_bytes for key, each in stats.items()}) + sum(
        max(_count_bytes(stats[key]) for key in kind) for kind in kinds
    )
    store.save_number(fact, scratch)
    return scratch


def list_largest(table: ProgramTable) -> tuple[tuple[ProgramKey, ...], ...]:
    """Return the largest programs of each kind: forward passes, log-probabilities of prompts, samplers."""
    if isinstance(table, PoolingTable):
        return ((*table.pools[-1:], *table.encodes[-1:]),)
    has_adapters = table.model.adapters is not None
    largest = (table.prefills[-1], table.decodes[-1])
    forwards: list[Forward | MultiStep] = [replace(key, has_adapters=has_adapters) for key in largest]
    most_rows = table.buckets.decode[-1]
    forwards += [key for key in table.multi_steps if (key.rows, key.has_adapters) == (most_rows, has_adapters)]
    most_rows, most_tokens = max(key.rows for key in table.samples), table.buckets.prefill[-1]
    samples: list[Sample] = [key for key in table.samples if key.rows == most_rows]
    logprobs: list[PromptLogprobs] = [key for key in table.prompt_logprobs if key.tokens == most_tokens]
    return tuple(dict.fromkeys(forwards)), tuple(logprobs), tuple(samples)


def abstract_state(table: ProgramTable, pages: Any) -> DeviceState:
    """Return the shapes of what is on a device, for pages of these shapes. Allocates nothing."""
    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), init_rows(table.num_rows))
    if isinstance(table, PoolingTable):
        return DeviceState(pages, rows, None)
    return DeviceState(pages, rows, jax.eval_shape(partial(penalties.init, table.num_rows, table.padded_vocab_size)))


def _count_code(keys: Iterable[Hashable], measured: Mapping[Any, int]) -> int:
    """Return the bytes of the code of programs, of which some are measured.

    A prompt chunk's code can be ten times that of a decode step, and a sampler's a tenth of that: 28 layers have
    118 MiB on a TPU v5e for 512 tokens, and 65 programs of that size would fill half of its memory.
    """
    largest: dict[Hashable, int] = {}
    for key, num_bytes in measured.items():
        largest[_kind(key)] = max(num_bytes, largest.get(_kind(key), 0))
    least = min(largest.values())  # what is not measured is small: it copies or sets a few numbers
    return sum(largest.get(_kind(key), least) for key in keys)


def _kind(key: Any) -> Hashable:
    return type(key), isinstance(key, Forward) and key.tokens is None


def _count_bytes(stats: Any) -> int:
    """Return the bytes that a call of a program needs: temporaries, and results that are not its arguments' memory."""
    return stats.temp_size_in_bytes + max(0, stats.output_size_in_bytes - stats.alias_size_in_bytes)
