"""Memory for weights in huge pages: nothing overlaps, JAX adopts it, and it goes with its last array."""

import mmap
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings

from jaxserve.weights import weight_memory
from jaxserve.weights.weight_memory import MAX_ARRAY_BYTES, REGION_BYTES, WeightMemory

TYPES = st.sampled_from([np.dtype(name) for name in ("float32", "int8", "uint8", "float16", "float64")])
SIZES = st.one_of(st.integers(0, 300), st.integers(MAX_ARRAY_BYTES // 16, MAX_ARRAY_BYTES // 8))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(TYPES, SIZES), max_size=24))
def test_arrays_are_equal_afterwards_and_do_not_overlap(shapes):
    memory = WeightMemory()
    arrays = [np.full(size, number % 100, dtype) for number, (dtype, size) in enumerate(shapes, 1)]
    with ThreadPoolExecutor(4) as pool:
        kept = list(pool.map(memory.keep, arrays))
    for number, (mine, array) in enumerate(zip(kept, arrays, strict=True), 1):
        assert mine.dtype == array.dtype and mine.shape == array.shape and (mine == number % 100).all()
        assert mine.ctypes.data % weight_memory.ALIGNMENT_BYTES == 0 or array.nbytes == 0


def test_a_matrix_that_lies_by_columns_is_kept_as_it_reads():
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    np.testing.assert_array_equal(WeightMemory().keep(values), values)


def test_a_large_array_stays_where_it_is():
    large = np.zeros(MAX_ARRAY_BYTES + 1, np.uint8)
    assert WeightMemory().keep(large) is large


@pytest.mark.parametrize("has_huge_pages", [True, False])
def test_jax_adopts_what_is_kept(has_huge_pages, monkeypatch):
    if not has_huge_pages:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    kept = WeightMemory().keep(np.ones((64, 64), np.float32))
    assert jax.device_put(kept).unsafe_buffer_pointer() == kept.ctypes.data


def test_what_does_not_fit_into_a_region_starts_the_next(monkeypatch):
    regions = []
    allocate = weight_memory.allocate_region
    monkeypatch.setattr(weight_memory, "allocate_region", lambda: regions.append(allocate()) or regions[-1])
    memory = WeightMemory()
    kept = [memory.keep(np.zeros(REGION_BYTES // 4, np.uint8)) for _ in range(5)]
    assert len(regions) == 2
    assert [any(np.shares_memory(one, region) for one in kept) for region in regions] == [True, True]
