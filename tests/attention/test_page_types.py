"""Pages of other types than the queries: every backend is held to the dense computation over what its pages hold."""

import jax.numpy as jnp
import numpy as np
import pytest

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
