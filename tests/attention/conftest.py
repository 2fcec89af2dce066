"""Attention backends.

module → what proves it:

    reference, inputs, blocks, cpu, native → test_backends.py, test_freed_pages.py: one contract for all backends
    whole → test_whole.py
    page_types → test_page_types.py: pages of other types, in all backends
    latent → test_latent.py: the same for latent vectors
    gpu → test_gpu.py
    tpu → test_tpu.py; test_tpu_interpreted.py: JAX's kernel in JAX's TPU interpreter
    mosaic → test_mosaic.py, test_mosaic_latent.py: its kernels in JAX's TPU interpreter
"""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import kernel as jax_kernel

from jaxserve.attention import BACKENDS, tpu
from jaxserve.attention.tpu import TpuAttention
from jaxserve.native import library
from tests.attention.cases import backend_of


@pytest.fixture(autouse=True)
def exact_products():
    """Accelerators would round the operands of float32 products."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(params=sorted(BACKENDS.keys() - {"tpu", "mosaic"}))  # which have test_tpu.py and test_mosaic.py
def backend(request):
    if request.param == "native" and library.find_compiler() is None:
        pytest.skip("no C compiler here")
    return backend_of(request.param)


@pytest.fixture
def tpu_backend(monkeypatch):
    """The backend with JAX's plain double of its kernel: the same arguments, row after row, so nothing is jitted."""

    def double(query, pages, *rest, num_kv_pages_per_block, num_queries_per_block, **how):
        out = jax_kernel.ref_ragged_paged_attention(query, pages, *rest, **how)
        return jnp.pad(out, ((0, len(query) - len(out)), (0, 0), (0, 0)), constant_values=jnp.nan)

    monkeypatch.setattr(tpu, "_import_kernel", lambda: double)
    with jax.disable_jit():
        yield TpuAttention()
