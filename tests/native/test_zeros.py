"""Fresh pages are zeros, whatever lay in that memory before, and cost no memory until they are written."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

from jaxserve.attention.native import NativeAttention
from jaxserve.config import MIB
from jaxserve.native import library

pytestmark = pytest.mark.skipif(not library.is_usable(), reason="no C compiler here")


@pytest.mark.parametrize("num_pages", [1, 3, 50, 1000])
def test_memory_that_was_used_before_reads_as_zeros(num_pages):
    backend = NativeAttention()
    for page_size, kv_heads, head_dim in ((16, 1, 2), (16, 3, 64), (5, 3, 7)):
        make = jax.jit(partial(backend.make_pages, num_pages, page_size, kv_heads, head_dim, jnp.float32))
        for _ in range(3):
            pages = jax.tree.leaves(make())
            assert all(not np.asarray(leaf).any() for leaf in pages)
            spoiled = jax.jit(lambda *pages: [leaf + jnp.nan for leaf in pages], donate_argnums=(0, 1))(*pages)
            for leaf in jax.block_until_ready(spoiled):
                leaf.delete()


def test_every_layer_has_arrays_of_its_own():
    backend = NativeAttention()
    layers = jax.jit(lambda: [backend.make_pages(3, 16, 2, 8, jnp.float32) for _ in range(4)])()
    assert len({leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(layers)}) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere zeros are written")
def test_pages_take_no_memory_until_they_are_written():
    make = jax.jit(lambda: NativeAttention().make_pages(4096, 16, 4, 64, jnp.float32))  # 64 MiB each
    program = make.lower().compile()
    before = psutil.Process().memory_info().rss
    pages = jax.block_until_ready(program())
    assert psutil.Process().memory_info().rss - before < 32 * MIB
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pages)) == 128 * MIB
