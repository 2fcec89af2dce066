"""Pages leave the scratch memory that the compiler measures, and later starts read it."""

from dataclasses import replace
from functools import cache, partial

import jax
import pytest

from jaxserve.cache.pages import CacheTypes, make_pages
from jaxserve.config import MIB, EngineConfig
from jaxserve.engine.build import build
from jaxserve.engine.compile import compile_counter
from jaxserve.engine.program_memory import measure_scratch
from jaxserve.engine.program_plan import needs_scratch
from jaxserve.engine.programs import ProgramStore
from jaxserve.parallel.placement import MemoryFacts, Placement, single_placement

SETTINGS = {"max_model_len": 64, "max_num_seqs": 1, "max_num_batched_tokens": 32, "gpu_memory_utilization": 0.5}
TOTAL_BYTES = 64 * MIB


class Accelerator(Placement):
    """A CPU that has 64 MiB of its own, and nothing in them."""

    has_own_memory = True

    def memory(self, weight_bytes: int, scratch_bytes: int = 0) -> MemoryFacts:
        free_bytes = TOTAL_BYTES - weight_bytes
        return MemoryFacts(platform="gpu", total_bytes=TOTAL_BYTES, free_bytes=free_bytes, scratch_bytes=scratch_bytes)


@pytest.fixture(scope="module")
def start(tiny_model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("programs")

    def start():
        config = EngineConfig(model=str(tiny_model), compilation_cache_dir=str(directory), **SETTINGS)
        return build(config, placement=Accelerator(single_placement().devices))

    return start


@pytest.fixture(scope="module")
def loaded(start):
    return start()


def pages_of(table, num_pages: int):
    model = table.model
    counts, size, types = [num_pages] * len(model.groups), model.page_size, CacheTypes(model.dtype, model.dtype)
    return jax.eval_shape(
        partial(make_pages, model.backend, model.groups, num_pages=counts, page_size=size, types=types)
    )


@pytest.fixture(scope="module")
def measure(loaded):
    """Compiles the largest programs over a number of pages, whatever earlier starts found out."""

    @cache
    def measure(num_pages: int = 20, max_chunk: int = 32) -> int:
        executor = loaded.engine.runner.executor
        buckets = replace(executor.table.buckets, prefill=(16, max_chunk))
        table = replace(executor.table, buckets=buckets)
        return measure_scratch(table, executor.weights, pages_of(table, num_pages), ProgramStore(None, table.placement))

    return measure


def test_pages_leave_the_measured_scratch_and_the_start_says_so(loaded, measure):
    weight_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded.engine.runner.executor.weights))
    left_bytes, size = TOTAL_BYTES // 2 - weight_bytes - measure(), loaded.cache_size
    assert size.total_bytes <= left_bytes < size.total_bytes + size.groups[0].page_bytes
    assert f"in use and {measure() / MIB:.1f} MiB of scratch" in loaded.description["key-value cache"]


def test_a_second_start_compiles_nothing_and_has_the_same_pages(loaded, start):
    before = compile_counter.counters()["compilations"]
    second = start()
    assert second.cache_size == loaded.cache_size
    assert compile_counter.counters()["compilations"] == before
    second.engine.close()


def test_the_number_of_pages_does_not_change_what_programs_need(measure):
    assert measure(num_pages=500) == measure()


def test_longer_chunks_need_more(measure):
    assert measure(max_chunk=128) > measure()


def test_no_program_needs_more_than_was_left(loaded, measure):
    needs = [program.memory_analysis() for program in loaded.engine.runner.executor.programs.values()]
    assert max(each.temp_size_in_bytes for each in needs) <= measure()


def test_only_a_cache_that_fills_a_device_is_measured():
    accelerator, cpu = Accelerator(single_placement().devices), single_placement()
    assert needs_scratch(EngineConfig(), accelerator)
    assert not needs_scratch(EngineConfig(), cpu)
    assert not needs_scratch(EngineConfig(num_gpu_blocks_override=9), accelerator)
    assert not needs_scratch(EngineConfig(kv_cache_memory_bytes=MIB), accelerator)
