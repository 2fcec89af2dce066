"""The same request gives the same tokens, whatever happens around it. On the real device path, tiny weights."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxserve.engine.compile import compile_counter
from jaxserve.engine.request import Request
from jaxserve.outputs import FinishReason
from jaxserve.sampling_params import SamplingParams
from tests import oracle

PROMPT = [int(n) for n in np.random.default_rng(5).integers(0, 256, 70)]
DRAWN = {"temperature": 1.3, "top_p": 0.95, "top_k": 50, "seed": 11}


def alone(bench, prompt=PROMPT, how=None, **params):
    one = bench(**(how or {}))
    one.add(1, prompt, **params)
    return one.run()[1]


@pytest.fixture
def calls(built, monkeypatch):
    """The number of chunks of each prefill call."""
    runner, nums = built.engine.runner, []
    call = runner._prefill_call
    monkeypatch.setattr(runner, "_prefill_call", lambda key, chunks: nums.append(len(chunks)) or call(key, chunks))
    return nums


def assert_same_scores(ours, theirs, i):
    for one, other in zip(ours.logprobs(i), theirs.logprobs(i), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    prompts = (bench.outputs[i][0].prompt_logprobs for bench in (ours, theirs))
    for one, other in zip(*prompts, strict=True):
        assert one == other or one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.mark.parametrize("params", [{}, DRAWN], ids=["greedy", "drawn"])
class TestEqualities:
    def test_chunked_is_as_whole(self, bench, params):
        whole = alone(bench, **params)
        for chunk in (16, 32, 48):
            assert alone(bench, how={"chunk": chunk}, **params) == whole

    def test_a_prefix_hit_is_as_a_miss(self, bench, params):
        cold = alone(bench, how={"prefix_caching": False}, **params)
        warm = bench()
        warm.add(1, PROMPT, **params)
        warm.run()
        warm.add(2, PROMPT, **params)
        assert warm.run() == {1: cold, 2: cold}
        assert warm.counter("prefix_cache_hits") == 64
        assert warm.outputs[2][0].num_cached_tokens == 64

    def test_alone_is_as_in_a_crowd(self, bench, params):
        crowd, rng = bench(), np.random.default_rng(1)
        prompts = {i: [int(n) for n in rng.integers(0, 256, rng.integers(1, 120))] for i in range(1, 9)}
        for i, prompt in prompts.items():
            crowd.add(i, prompt, **(params if i % 3 else {}))
        together = crowd.run()
        for i, prompt in prompts.items():
            assert together[i] == alone(bench, prompt, **(params if i % 3 else {})), i

    def test_packed_into_one_call_is_as_alone(self, bench, calls, params):
        packed, rng = bench(budget=256), np.random.default_rng(4)
        prompts = {i: [int(n) for n in rng.integers(0, 256, 1 + 3 * i)] for i in range(1, 7)}
        for i, prompt in prompts.items():
            packed.add(i, prompt, **params, logprobs=1, prompt_logprobs=1)
        together = packed.run()
        assert max(calls) > 2, "several prompts in a call"
        for i, prompt in prompts.items():
            single = bench()
            single.add(i, prompt, **params, logprobs=1, prompt_logprobs=1)
            assert single.run()[i] == together[i], i
            assert_same_scores(packed, single, i)

    def test_overlap_changes_nothing(self, bench, params):
        results = []
        for overlap in (True, False):
            some = bench(overlap=overlap)
            for i in range(1, 5):
                some.add(i, PROMPT[: 17 * i], **params)
            results.append(some.run())
        assert results[0] == results[1]

    def test_preempted_is_as_undisturbed(self, bench, params):
        tight = bench(num_pages=1 + 14)
        for i in range(1, 5):
            tight.add(i, PROMPT[:40], tokens=60, **params | ({"seed": i} if params else {}))
        results = tight.run()
        assert tight.counter("num_preemptions") > 0
        for i in range(1, 5):
            assert results[i] == alone(bench, PROMPT[:40], tokens=60, **params | ({"seed": i} if params else {}))

    @pytest.mark.parametrize("method", ["forward", "sample", "fetch"])
    def test_after_a_rebuild_is_as_undisturbed(self, bench, built, monkeypatch, method, params):
        whole = bench()
        disturbed = bench()
        for some in (whole, disturbed):
            for i in range(1, 5):
                some.add(i, PROMPT[: 17 * i], frequency_penalty=0.5 * (i % 2), **params)
        expected = whole.run()
        compiled = compile_counter.counters()
        fail_fifth_call(monkeypatch, built.engine.runner, method)
        assert disturbed.run() == expected
        assert disturbed.counter("engine_rebuilds") == 1
        assert compile_counter.counters() == compiled


def fail_fifth_call(monkeypatch, runner, method):
    """Make a step raise that has taken the whole device state with it."""
    original, calls = getattr(runner, method), []

    def call(*args):
        calls.append(method)
        if len(calls) == 5:
            for array in jax.tree.leaves(runner.executor.state):
                array.delete()
            raise RuntimeError("the device has failed")
        return original(*args)

    monkeypatch.setattr(runner, method, call)


def test_greedy_tokens_are_those_of_the_plain_decoder(bench, built, tiny_model):
    weights = load_file(tiny_model / "model.safetensors")
    assert alone(bench, PROMPT[:20], tokens=12) == oracle.greedy(built.model_config, weights, PROMPT[:20], 12)


def test_logprobs_are_those_of_the_plain_decoder(bench, built, tiny_model):
    one = bench()
    one.add(1, PROMPT[:20], tokens=3, logprobs=2, prompt_logprobs=2)
    tokens = one.run()[1]
    logits = oracle.logits(built.model_config, load_file(tiny_model / "model.safetensors"), PROMPT[:20] + tokens)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scores = one.outputs[1][0].prompt_logprobs
    assert scores[0] is None
    for at, entry in enumerate([*scores[1:], *one.logprobs(1)]):
        assert entry.token_id == (PROMPT[:20] + tokens)[at + 1]
        assert entry.logprob == pytest.approx(expected[at, entry.token_id], abs=1e-4)
        assert entry.rank == 1 + (expected[at] > expected[at, entry.token_id]).sum()
        assert [token for token, _ in entry.top] == list(np.argsort(-expected[at], kind="stable")[:2])


def test_prompt_logprobs_do_not_depend_on_chunks_or_on_the_cache(bench):
    def scores(**how):
        one = bench(**how)
        one.add(1, PROMPT, tokens=1)
        one.run()
        one.add(2, PROMPT, tokens=1, prompt_logprobs=0)
        one.run()
        assert one.outputs[2][0].num_cached_tokens == 0
        return [entry.logprob for entry in one.outputs[2][0].prompt_logprobs[1:]]

    np.testing.assert_allclose(scores(chunk=16), scores(chunk=64), atol=1e-5)


def test_packed_choices_are_as_alone(bench, calls):
    """Forks of several prompts are sampled from the logits of one call, each with its own parameters."""
    packed = bench(budget=256)
    for i in range(1, 4):
        add_choices(packed, 10 * i, PROMPT[i : 12 + i])
    together = packed.run()
    assert max(calls) == 3
    for i in range(1, 4):
        single = bench()
        add_choices(single, 10 * i, PROMPT[i : 12 + i])
        assert single.run() == {choice: together[choice] for choice in range(10 * i, 10 * i + 3)}


def add_choices(bench, first, prompt):
    for choice in range(3):
        params = SamplingParams(temperature=1.0, max_tokens=9, frequency_penalty=float(choice))
        bench.engine.add(
            Request(
                first + choice,
                tuple(prompt),
                params,
                first + choice,
                len(prompt) + 9,
                parent_id=first if choice else None,
                num_siblings=2 - choice,
            )
        )


def test_an_unfinished_prompt_counts_no_token_for_its_penalties(bench):
    """The token sampled behind a chunk that is not the last is dropped, also by the penalties of its row."""
    packed = bench(budget=64, chunk=32)
    packed.add(1, PROMPT[:5], tokens=4, logprobs=1)
    packed.add(2, PROMPT, repetition_penalty=1.5, temperature=0.0)
    assert packed.run()[2] == alone(bench, repetition_penalty=1.5)


def test_a_scored_prompt_ends_without_a_token(bench):
    one = bench()
    params = SamplingParams(temperature=0, max_tokens=0, echo_only=True, prompt_logprobs=1)
    one.engine.add(Request(1, tuple(PROMPT), params, 0, len(PROMPT)))
    assert one.run() == {1: []}
    (output,) = one.outputs[1]
    assert output.finish_reason is FinishReason.LENGTH
    assert len(output.prompt_logprobs) == len(PROMPT)


def test_a_choice_draws_as_its_seed_does_alone(bench):
    both = bench()
    both.add(1, PROMPT, temperature=1.0, seed=7)
    both.add(2, PROMPT, temperature=1.0, seed=8)
    together = both.run()
    assert both.counter("prefix_cache_hits") == 64, "the second waits for the first one's prompt"
    assert together[1] != together[2]
    one = bench()
    one.add(1, PROMPT, temperature=1.0, seed=8)
    assert together[2] == one.run()[1]


def test_min_tokens_holds_the_end_back(bench):
    first = alone(bench, tokens=1)[0]
    free = bench()
    params = SamplingParams(temperature=0, max_tokens=8)
    free.engine.add(Request(1, tuple(PROMPT), params, 0, len(PROMPT) + 8, stop_ids=frozenset([first])))
    assert free.run()[1] == [first] and free.outputs[1][-1].stop_reason == first
    held = bench()
    params = SamplingParams(temperature=0, max_tokens=8, min_tokens=4)
    held.engine.add(
        Request(
            1,
            tuple(PROMPT),
            params,
            0,
            len(PROMPT) + 8,
            stop_ids=frozenset([first]),
            stop_ids_until_min_tokens=(first,),
        )
    )
    assert first not in held.run()[1][:4]


def test_nothing_compiles_after_warm_up(bench):
    before, rng = compile_counter.compiled, np.random.default_rng(2)
    some = bench()
    for i in range(1, 41):
        params = DRAWN if i % 3 else {"logprobs": 3, "prompt_logprobs": 1}
        prompt = [int(n) for n in rng.integers(0, 256, rng.integers(1, 200))]
        some.add(i, prompt, tokens=int(rng.integers(1, 50)), **params)
        if i % 5 == 0:
            some.step()
    some.run()
    assert compile_counter.compiled == before
