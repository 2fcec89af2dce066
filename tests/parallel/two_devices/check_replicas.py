"""Two replicas of one model: they give the tokens of one, share the requests, and one may die."""

import jax
import pytest

from jaxserve import LLM, EngineStopped, InvalidParameter, SamplingParams
from jaxserve.llm_requests import prepare_text
from tests.models.tiny import write

SETTINGS = {"max_model_len": 128, "max_num_seqs": 4, "max_num_batched_tokens": 32, "num_gpu_blocks_override": 80}
SHAPES = (
    {"temperature": 0},
    {"temperature": 1.0},
    {"temperature": 0.8, "n": 3},
    {"temperature": 1.0, "top_k": 5, "logprobs": 2},
    {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
    {"temperature": 0, "logit_bias": {65: 3.0}, "prompt_logprobs": 0},
    {"temperature": 1.0, "structured_outputs": {"regex": "[a-f]{3,9}"}},
    {"temperature": 1.0, "min_p": 0.2, "stop": ["a", "b"]},
    {"n": 2, "use_beam_search": True},
    {"temperature": 1.0, "allowed_token_ids": [65, 66, 67], "bad_words": ["AB"]},
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(write(tmp_path_factory.mktemp("tiny"), "llama", seed=3))


@pytest.fixture(scope="module")
def two(path):
    with LLM(path, data_parallel_size=2, quiet=True, **SETTINGS) as llm:
        yield llm


def prompts():
    return [[(7 * i + j) % 250 for j in range(3 + i % 40)] for i in range(60)]


def params(i):
    return SamplingParams(**SHAPES[i % len(SHAPES)], max_tokens=4 + i % 9, seed=i)


def said(completion):
    """Return what a completion says; log-probabilities may differ in their last bits, as batches do."""
    return [(one.text, one.token_ids, one.finish_reason, one.stop_reason) for one in completion.choices]


def shares(llm):
    """Return the tokens that each replica has generated."""
    return [stats.counters["generation_tokens"] for stats in llm._client.replica_stats()]


def test_each_replica_has_its_own_device(two):
    weights = [jax.tree.leaves(replica.loaded.engine.runner.executor.weights) for replica in two._client.replicas]
    devices = [{device for leaf in leaves for device in leaf.devices()} for leaves in weights]
    assert devices == [{device} for device in jax.devices()]


def test_sixty_mixed_requests_have_the_tokens_of_one_engine(path, two):
    with LLM(path, quiet=True, **SETTINGS) as llm:
        expected = llm.generate(prompts(), [params(i) for i in range(60)])
    completions = two.generate(prompts(), [params(i) for i in range(60)])
    assert [said(one) for one in completions] == [said(one) for one in expected]
    assert min(shares(two)) > sum(shares(two)) / 4
    stats = two.stats()
    assert stats.counters["generation_tokens"] == sum(shares(two))
    assert stats.cache_groups[0].pages_total == 2 * 79 and stats.pages_active == 0
    assert stats.histograms["request_params_n"].counts[-1] == 0
    assert sum(stats.histograms["request_params_n"].counts) == 60


def test_a_prompt_that_goes_on_is_served_where_its_beginning_is_cached(two):
    hits = two.stats().counters["prefix_cache_hits"]
    for start in range(4):
        prompt = [200 + start, *range(60)]
        for turn in range(3):
            two.generate([prompt + [turn] * turn], max_tokens=2)
    assert two.stats().counters["prefix_cache_hits"] == hits + 4 * 2 * 48


def test_all_choices_of_a_request_are_on_one_replica(two):
    before = [stats.histograms["request_params_n"].sum for stats in two._client.replica_stats()]
    two.generate([[1, 2, 3]], temperature=1.0, n=4, max_tokens=3)
    after = [stats.histograms["request_params_n"].sum for stats in two._client.replica_stats()]
    assert sorted(new - old for new, old in zip(after, before, strict=True)) == [0, 4]


def test_a_request_may_name_its_replica(two):
    client = two._client
    for rank in (1, 0, 1):
        before = shares(two)
        ready = client.preparer.prepare(
            [9, 8, 7], SamplingParams(max_tokens=3, ignore_eos=True), data_parallel_rank=rank
        )
        two._blocking_client.run([ready])
        assert [new - old for new, old in zip(shares(two), before, strict=True)] == [3 * (1 - rank), 3 * rank]
    with pytest.raises(InvalidParameter, match=r"from 0 to 1: there are 2 replicas, got 2"):
        client.check_data_parallel_rank(2)


def test_one_that_dies_takes_its_own_requests_and_health_says_so(path, caplog):
    with LLM(path, data_parallel_size=2, quiet=True, **SETTINGS) as llm:
        client = llm._client
        runner = client.replicas[1].loaded.engine.runner
        runner.forward = runner.reset = None  # the next step raises, and so does the rebuild
        ready = client.preparer.prepare([1, 2], SamplingParams(max_tokens=3), data_parallel_rank=1)
        with pytest.raises(EngineStopped):
            llm._blocking_client.run([ready])
        client.replicas[1].stop()
        assert client.can_serve and not client.is_healthy
        completions = llm.generate([[i, 2, 3] for i in range(6)], max_tokens=3, ignore_eos=True)
        assert all(len(one.choices[0].token_ids) == 3 for one in completions)
        client.replicas[0].stop()
        with pytest.raises(EngineStopped):
            client.admit()
    assert "the engine has died" in caplog.text


def test_a_text_is_prepared_once_and_runs_anywhere(two):
    ready = prepare_text(two._client, "abc", SamplingParams(temperature=0, max_tokens=5))
    first, second = two._blocking_client.run([ready, ready])
    assert first.choices == second.choices
