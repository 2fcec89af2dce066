"""Attention over latent vectors: one contract, every backend, held to the dense computation of cases.py.

A latent vector is one key head whose first numbers are its value; `AsKeys` says so to the cases.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention import BACKENDS
from tests.attention.cases import Case

HEADS, ROTARY = 4, 4


class AsKeys:
    """A latent backend whose keys are the vectors, and whose values are they with zeros for the rotated part."""

    def __init__(self, latent):
        hurry = {"xla_backend_optimization_level": 0}
        self.latent = latent
        self._write = jax.jit(latent.write, compiler_options=hurry)
        self._attend = jax.jit(latent.attend, static_argnames="scale", compiler_options=hurry)

    def make_pages(self, num_pages, page_size, kv_heads, head_dim, dtype):
        assert kv_heads == 1
        return self.latent.make_pages(num_pages, page_size, head_dim - ROTARY, ROTARY, dtype)

    def write(self, pages, key_T1C, value_T1C, slot_T):
        return self._write(pages, key_T1C[:, 0], slot_T)

    def attend(self, query_TNC, pages, inputs, *, scale):
        out_TNR = self._attend(query_TNC, pages, inputs, scale=scale)
        return jnp.pad(out_TNR, ((0, 0), (0, 0), (0, ROTARY)))


@functools.cache
def as_keys(name):
    return AsKeys(BACKENDS[name].latent)


@pytest.fixture(params=["reference", "cpu", "tpu"])
def backend(request):
    return as_keys(request.param)


def latent_case(backend, *args, head_dim=16, **how):
    case = Case(backend, *args, heads=HEADS, kv_heads=1, head_dim=head_dim, **how)
    case.values = [np.concatenate([key[..., :-ROTARY], 0 * key[..., -ROTARY:]], axis=-1) for key in case.keys]
    return case


def test_gpus_and_c_kernels_leave_latents_to_xla():
    assert BACKENDS["gpu"].latent == BACKENDS["native"].latent == BACKENDS["cpu"].latent


@pytest.mark.parametrize("lengths", [[1], [15, 16, 17, 0], [63, 64, 65, 320]])
def test_decode_sees_every_live_token_and_no_other(backend, lengths):
    latent_case(backend, lengths, columns=1).check(backend, scale=0.3)


@pytest.mark.parametrize("lengths", [[8], [320, 1, 64, 7], [5, 0, 130]])
def test_a_chunk_attends_causally_behind_its_prefix(backend, lengths):
    latent_case(backend, lengths, columns=8).check(backend, scale=0.3)


def test_rows_own_as_many_queries_as_they_like(backend):
    latent_case(backend, [70, 0, 300, 9], counts=[17, 0, 0, 9], tokens=32).check(backend, scale=0.3)


def test_deepseeks_size_fills_no_whole_lanes(backend):
    latent_case(backend, [70, 3], columns=1, head_dim=576).check(backend, scale=0.05, atol=3e-6)


def test_bfloat16_loses_no_more_than_its_own_rounding(backend):
    latent_case(backend, [200, 3, 65], columns=8, dtype=jnp.bfloat16).check(backend, scale=0.25, atol=0.02)


def test_a_packed_chunk_is_as_it_would_be_alone(backend):
    case = latent_case(backend, [70, 133, 20], counts=[17, 9, 6], tokens=32)
    pages = case.write(backend)
    packed = backend.attend(case.query, pages, case.inputs(), scale=0.3)[case.start[1] : case.start[2]]
    query, inputs = case.row_inputs(1, tokens=24)
    alone = backend.attend(query, pages, inputs, scale=0.3)[: case.counts[1]]
    np.testing.assert_allclose(alone, packed, rtol=0, atol=1e-6)


def test_a_token_takes_the_memory_of_its_numbers_alone():
    latents = [(BACKENDS[name].latent, 576) for name in ("reference", "cpu", "gpu", "native")]
    for latent, stored in [*latents, (BACKENDS["tpu"].latent, 640), (BACKENDS["mosaic"]().latent, 640)]:
        pages = jax.eval_shape(functools.partial(latent.make_pages, 3, 16, 512, 64, "bfloat16"))
        assert sum(leaf.size for leaf in jax.tree.leaves(pages)) == 3 * 16 * stored
