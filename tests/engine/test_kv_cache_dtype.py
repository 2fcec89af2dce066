"""Pages of 8-bit numbers on the real device path: the same request gives the same tokens, whatever happens around it.

A scale belongs to one token, so it cannot matter which tokens were written with it, nor when.
"""

import jax
import pytest

from jaxserve.config import EngineConfig
from jaxserve.engine.build import build
from tests.engine.conftest import PAGE, PAGES, Bench
from tests.engine.test_model_families import OTHERS, PARAMS, PROMPT, tokens_of, undisturbed
from tests.models.tiny import write

# Full attention; windows, sinks and experts; recurrent layers, whose states stay float32.
FAMILIES = {"llama": "int8", "gpt_oss": "fp8", "qwen3_next": "fp8_e5m2"}


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, tmp_path_factory, fewest_programs):
    loaded = build(
        EngineConfig(
            model=str(write(tmp_path_factory.mktemp("family"), request.param, seed=3)),
            kv_cache_dtype=FAMILIES[request.param],
            max_model_len=128,
            max_num_seqs=2,
            max_num_batched_tokens=64,
            num_gpu_blocks_override=PAGES,
            max_logprobs=0,
            roofline=False,
        )
    )
    yield loaded
    loaded.engine.close()


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_tokens_do_not_depend_on_what_happens_around_a_request(built, params):
    expected = [undisturbed(built, prompt, **params) for prompt in (PROMPT, *OTHERS)]
    assert tokens_of(Bench(built, chunk=16), PROMPT, **params) == expected[:1], "in chunks"

    cached = Bench(built)
    assert [tokens_of(cached, PROMPT, **params) for _ in range(2)] == [expected[:1]] * 2, "cached"
    is_recurrent = any(size.is_recurrent for size in built.cache_size.groups)
    assert is_recurrent or cached.counter("prefix_cache_hits") == len(PROMPT) // PAGE * PAGE

    preempted = Bench(built, num_pages=1 + 9)
    assert tokens_of(preempted, PROMPT, *OTHERS, **params) == expected, "preempted"
    assert preempted.counter("num_preemptions") > 0


def test_pages_are_as_small_as_they_are_said_to_be_and_states_keep_their_type(built):
    arrays = jax.tree.leaves(built.engine.runner.executor.state.pages)
    assert sum(array.nbytes for array in arrays) == built.cache_size.total_bytes
    kinds = {array.dtype.name for array in arrays}
    assert kinds == {"int8" if built.config.kv_cache_dtype == "int8" else "uint8", "float32"}
    assert (
        built.description["cache dtype"]
        == {"int8": "int8", "fp8": "float8_e4m3fn", "fp8_e5m2": "float8_e5m2"}[built.config.kv_cache_dtype]
    )
