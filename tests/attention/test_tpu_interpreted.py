"""JAX's TPU kernel itself, behind our signature, in JAX's TPU interpreter: held to the contract of the backends."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from jaxserve.attention.tpu import TpuAttention
from tests.attention.cases import Case
from tests.attention.interpreter import STRICT, interpret, reads_views


class Interpreted(TpuAttention):
    def attend(self, query_TNH, pages, inputs, **how):
        with reads_views(), pltpu.force_tpu_interpret_mode(STRICT):
            return interpret(lambda query, pages: super(Interpreted, self).attend(query, pages, inputs, **how))(
                jnp.asarray(query_TNH), pages
            )


@pytest.fixture
def kernel():
    return Interpreted()


@pytest.mark.parametrize(
    ("lengths", "columns", "heads", "kv_heads", "head_dim", "how"),
    [
        ([1, 16, 75, 0], 1, 4, 2, 64, {}),
        ([40, 0, 21], 3, 4, 2, 128, {"window": 7}),
        ([20], 16, 2, 2, 80, {"softcap": 5.0}),
    ],
    ids=["decode, page borders, a padding row", "chunks with a window", "a chunk with a soft cap"],
)
def test_it_answers_as_every_backend_must(kernel, lengths, columns, heads, kv_heads, head_dim, how):
    case = Case(kernel, lengths, columns, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
    case.check(kernel, scale=0.1, atol=3e-6, **how)


def test_rows_own_as_many_queries_as_they_like(kernel):
    case = Case(kernel, [0, 40, 30, 9], counts=[0, 20, 0, 1], tokens=32, head_dim=128)
    case.check(kernel, scale=0.1, atol=3e-6)


@pytest.mark.parametrize("columns", [1, 8])
def test_bfloat16_loses_no_more_than_its_own_rounding(kernel, columns):
    Case(kernel, [70, 3], columns, head_dim=64, dtype=jnp.bfloat16).check(kernel, scale=0.125, atol=0.02)


def test_nothing_is_read_from_pages_that_a_window_has_freed(kernel):
    case = Case(kernel, [100, 50], columns=2, head_dim=64)
    pages = case.write(kernel)
    case.free_behind(window=20)
    out = kernel.attend(case.query, pages, case.inputs(), scale=0.1, window=20)
    np.testing.assert_allclose(out, case.expect(scale=0.1, window=20), atol=3e-6)


def test_an_8_bit_float_is_multiplied_as_it_is_stored(kernel):
    case = Case(kernel, [70, 3], heads=4, kv_heads=2, head_dim=64, pages_dtype=jnp.float8_e4m3fn, has_scales=False)
    case.check(kernel, scale=0.1, atol=2e-5)
