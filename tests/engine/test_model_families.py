"""Families on the real device path: the same request gives the same tokens, whatever happens around it.

One family of each kind of layer, cache and router, or all of them with LONG_TESTS=1; the logits of all are held to
transformers in tests/models/test_parity.py. One engine a family, of tiny random weights, with two rows and the fewest
programs, because compilation is what a family costs here: prompt chunks of two sizes, decode batches of two, and two
samplers, which all families share.
"""

import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxserve.config import EngineConfig
from jaxserve.engine.build import build
from tests.engine.conftest import PAGE, PAGES, Bench
from tests.models.tiny import FAMILIES, OF_EACH_KIND, write
from tests.models.torch_model import TorchModel

BUILT_FAMILIES = FAMILIES if os.environ.get("LONG_TESTS") else OF_EACH_KIND
RNG = np.random.default_rng(5)
PROMPT = [int(n) for n in RNG.integers(0, 256, 60)]
OTHERS = [[int(n) for n in RNG.integers(0, 256, size)] for size in (7, 33, 52)]
NUM_TOKENS = 32
PARAMS = {"greedy": {}, "sampled": {"temperature": 1.3, "top_p": 0.95, "top_k": 50, "seed": 11}}


@pytest.fixture(scope="module", params=BUILT_FAMILIES)
def built(request, tmp_path_factory, fewest_programs):
    loaded = build(
        EngineConfig(
            model=str(write(tmp_path_factory.mktemp("family"), request.param, seed=3)),
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


def tokens_of(bench, *prompts, **params):
    """The tokens of each prompt, all of them added before the first step."""
    start = len(bench.outputs)
    for number, prompt in enumerate(prompts, start):
        bench.add(number, prompt, tokens=NUM_TOKENS, **params)
    outputs = bench.run()
    return [outputs[start + number] for number in range(len(prompts))]


def undisturbed(built, prompt, **params):
    """The tokens of a prompt that is one chunk, alone and not cached."""
    return tokens_of(Bench(built, prefix_caching=False, overlap=False), prompt, **params)[0]


def check_next_turn(built, bench, prompt, params):
    """A prompt that goes on behind an answer begins at the snapshot of the answer's last page border."""
    before = bench.counter("prefix_cache_hits")
    assert tokens_of(bench, prompt, **params) == [undisturbed(built, prompt, **params)], "the next turn"
    assert bench.counter("prefix_cache_hits") - before == (len(PROMPT) + NUM_TOKENS) // PAGE * PAGE


def test_greedy_tokens_are_those_of_transformers(built):
    """Each token is the best one behind those before it: so are all of them, at the cost of one pass."""
    tokens = undisturbed(built, PROMPT)
    model = TorchModel(built.model_config, load_file(built.path / "model.safetensors"))
    best = model.logits(PROMPT + tokens).argmax(-1).tolist()
    assert len(tokens) == NUM_TOKENS
    assert tokens == best[len(PROMPT) - 1 : -1]


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
def test_tokens_do_not_depend_on_what_happens_around_a_request(built, params):
    expected = [undisturbed(built, prompt, **params) for prompt in (PROMPT, *OTHERS)]
    assert tokens_of(Bench(built, chunk=16), PROMPT, **params) == expected[:1], "in chunks"

    cached = Bench(built)
    assert [tokens_of(cached, PROMPT, **params) for _ in range(2)] == [expected[:1]] * 2, "cached"
    is_recurrent = any(size.is_recurrent for size in built.cache_size.groups)
    assert is_recurrent or cached.counter("prefix_cache_hits") == len(PROMPT) // PAGE * PAGE

    if is_recurrent:
        check_next_turn(built, cached, [*PROMPT, *expected[0], 7], params)

    assert tokens_of(Bench(built), PROMPT, *OTHERS, **params) == expected, "with others"

    preempted = Bench(built, num_pages=1 + 9)
    assert tokens_of(preempted, PROMPT, *OTHERS, **params) == expected, "preempted"
    has_full_attention = any(size.window is None for size in built.cache_size.groups)
    assert (preempted.counter("num_preemptions") > 0) == has_full_attention, "windows alone free enough pages"
