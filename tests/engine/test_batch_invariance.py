"""With batch_invariant a request gets the same bits, tokens and log-probabilities, whatever happens around it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jaxserve.config import EngineConfig
from jaxserve.engine.buckets import choose_buckets
from jaxserve.engine.build import build
from tests.engine.conftest import MAX_LEN, PAGE, PAGES, Bench
from tests.grammars import regex
from tests.models.tiny import random_weights, tiny_config

SEQS = 32
SHARED = [int(n) for n in np.random.default_rng(5).integers(0, 256, 90)]
DRAWN = {"temperature": 1.3, "top_p": 0.95, "top_k": 50}
LETTERS = {"grammar": regex("[a-z]*", 1000, (3,)), "stop_ids_until_min_tokens": (3,)}
WISHES = (
    {"logprobs": 2},
    DRAWN | {"logprobs": 5},
    DRAWN,
    {},
    {"logprobs": 0, "prompt_logprobs": 2},
    DRAWN | {"guided": LETTERS},
    {"guided": LETTERS, "logprobs": 4},
)


def make(model):
    return build(
        EngineConfig(
            model=str(model),
            max_model_len=MAX_LEN,
            max_num_seqs=SEQS,
            max_num_batched_tokens=128,
            num_gpu_blocks_override=PAGES,
            max_logprobs=5,
            batch_invariant=True,
        )
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Wide enough that products of different shapes are really computed by different code."""
    directory = tmp_path_factory.mktemp("wide")
    wide = {"hidden_size": 192, "intermediate_size": 400, "head_dim": 32, "num_hidden_layers": 2, "vocab_size": 1000}
    config = tiny_config("llama") | wide
    (directory / "config.json").write_text(json.dumps(config))
    save_file(random_weights(config, seed=3), directory / "model.safetensors")
    return directory


@pytest.fixture(scope="module")
def invariant(model):
    return make(model)


def bits(built, requests, **how):
    """All that each request hears, floats exactly. requests: (prompt, tokens, index of its wishes)."""
    bench = Bench(built, **({"chunk": SEQS} | how))
    for i, (prompt, tokens, wish) in enumerate(requests):
        bench.add(i, prompt, tokens=tokens, seed=len(prompt), **WISHES[wish])
        if how.get("overlap"):
            bench.step()
    bench.run()
    first = [bench.outputs[i][0] for i in range(len(requests))]
    return [(bench.tokens(i), bench.logprobs(i), first[i].prompt_logprobs) for i in range(len(requests))], bench


def alone(built, request):
    return bits(built, [request], overlap=False, prefix_caching=False)[0][0]


REQUESTS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 90), st.integers(1, 60)).map(
            lambda n: SHARED[: n[0]] + [(n[0] * 7 + 3 * i) % 256 for i in range(n[1])]
        ),
        st.integers(1, 12),
        st.integers(0, len(WISHES) - 1),
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(requests=REQUESTS, chunk=st.sampled_from([16, 32]), budget=st.integers(16, 128), overlap=st.booleans())
def test_every_mix_gives_every_request_its_own_bits(invariant, requests, chunk, budget, overlap):
    together, _ = bits(invariant, requests, chunk=chunk, budget=budget, overlap=overlap)
    assert together == [alone(invariant, request) for request in requests]


def test_a_preempted_request_gets_its_own_bits(invariant):
    requests = [(SHARED[:40], 60, i % 3) for i in range(4)]
    together, tight = bits(invariant, requests, num_pages=1 + 14, prefix_caching=False)
    assert tight.counter("num_preemptions") > 0
    assert together == [alone(invariant, request) for request in requests]


def test_a_cached_prefix_gives_the_bits_that_it_saves(invariant):
    requests = [(SHARED, 12, wish) for wish in (0, 1, 1)]
    together, warm = bits(invariant, requests)
    assert warm.counter("prefix_cache_hits") >= 5 * PAGE
    assert together == [alone(invariant, request) for request in requests]


def test_another_start_gives_the_same_bits(invariant, model):
    requests = [(SHARED[:50], 12, 0), (SHARED[:33], 12, 1)]
    assert bits(make(model), requests)[0] == bits(invariant, requests)[0]


def test_there_is_one_shape_and_it_is_made_of_whole_tiles():
    def shape(rows, page=16):
        return choose_buckets(
            max_num_seqs=rows, max_chunk_tokens=256, platform="cpu", page_size=page, batch_invariant=True
        )

    for rows, page, expected in ((1, 16, 16), (16, 16, 16), (17, 16, 32), (32, 64, 64), (256, 16, 256)):
        assert shape(rows, page).decode == shape(rows, page).prefill == (expected,)
