"""Pages of other types than the queries: every backend is held to the dense computation over what its pages hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxserve.attention.page_types import quantize
from tests.attention.cases import Case

PLAIN, NARROW = ("float16", "bfloat16"), ("int8", "float8_e4m3fn", "float8_e5m2")
SINKS = np.array([-3.0, 0.0, 2.0, 9.0], np.float32)
LAYOUTS = {
    "decode": ([70, 3, 300, 0], {}, {}),
    "decode with a window": ([300, 71, 5], {}, {"window": 70}),
    "chunks": ([320, 1, 64, 7], {"columns": 8}, {"softcap": 5.0, "sinks": SINKS}),
    "ragged chunks": ([70, 270, 133, 9], {"counts": [17, 5, 1, 9], "tokens": 32}, {"window": 30}),
}


@pytest.mark.parametrize("pages_dtype", PLAIN + NARROW)
@pytest.mark.parametrize(("lengths", "layout", "how"), LAYOUTS.values(), ids=LAYOUTS)
def test_answers_are_those_over_what_the_pages_hold(backend, pages_dtype, lengths, layout, how):
    case = Case(backend, lengths, **layout, head_dim=24, pages_dtype=jnp.dtype(pages_dtype))
    case.check(backend, scale=0.3, **how, atol=5e-6)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("num_tokens", [1, 3, 64, 512])
def test_a_value_that_is_no_number_makes_its_scale_no_number(num_tokens, dtype):
    x_TKH = np.random.default_rng(0).normal(size=(num_tokens, 2, 64)).astype(np.float32)
    x_TKH[::3, 1, 7] = np.nan
    _, scale_TK = jax.jit(lambda x_TKH: quantize(x_TKH, jnp.dtype(dtype)))(x_TKH)
    assert (np.isnan(scale_TK) == np.isnan(x_TKH).any(axis=-1)).all()
