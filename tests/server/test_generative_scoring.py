"""POST /generative_scoring: prompts of a query and items, and the probability of the first label behind each."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.routes.generative_scoring import compute_score
from tests.fake_llm import BOS, CONTEXT, FakeLLM

PATH = "/generative_scoring"
BODY = {"query": "ab", "items": ["c", "de"], "label_token_ids": [7, 8, 9]}


async def score(api, **fields):
    answer = await api.post(PATH, {**BODY, **fields})
    assert answer.status == 200, answer.text
    return answer.json


async def prompts_of(api, **fields):
    api.llm.calls.clear()
    await score(api, **fields)
    return [call.prompt_ids for call in api.llm.calls]


def ids(text):
    return tuple(map(ord, text))


async def test_texts_and_token_ids_are_joined(api):
    assert await prompts_of(api) == [(BOS, *ids("abc")), (BOS, *ids("abde"))]
    assert await prompts_of(api, item_first=True) == [(*ids("c"), BOS, *ids("ab")), (*ids("de"), BOS, *ids("ab"))]
    assert await prompts_of(api, add_special_tokens=False) == [ids("abc"), ids("abde")]
    assert await prompts_of(api, query=[5, 6], items=[[7], [8, 9]]) == [(5, 6, 7), (5, 6, 8, 9)]
    assert await prompts_of(api, query=[5], items=["x" * 90]) == [(5, *ids("x" * (CONTEXT - 2)))]


async def test_a_score_is_the_first_label_s_probability(api):
    """The fake gives every label the log-probability -5."""
    reply = await score(api)
    assert [(one["index"], one["object"]) for one in reply["data"]] == [(0, "score"), (1, "score")]
    assert [one["score"] for one in reply["data"]] == pytest.approx([1 / 3] * 2)
    whole = await score(api, apply_softmax=False, label_token_ids=[7, 7])
    assert [one["score"] for one in whole["data"]] == pytest.approx([math.exp(-5)] * 2)
    assert api.llm.calls[-1].params.logprob_token_ids == (7,)
    assert reply["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


async def test_what_it_shares_with_other_requests(make_api):
    api = make_api(llm=FakeLLM(scheduling_policy="priority"))
    reply = await score(api, model="fake/model", request_id="mine", priority=3, cache_salt="s")
    assert (reply["id"], reply["model"], reply["object"]) == ("generative-scoring-mine", "fake/model", "list")
    call = api.llm.calls[-1]
    assert (call.params.priority, call.cache_salt, call.params.max_tokens) == (3, "s", 1)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"label_token_ids": []}, "body.label_token_ids"),
        ({"label_token_ids": [-1]}, "label_token_ids"),
        ({"label_token_ids": [1000]}, "label_token_ids"),
        ({"label_token_ids": list(range(200))}, "label_token_ids"),
        ({"items": []}, "body.items"),
        ({"items": ["a"] * 1025}, "items"),
        ({"items": ["a"] * 65}, "items"),
        ({"items": [[]], "query": []}, "items"),
        ({"query": [5000]}, "items"),
        ({"priority": 3}, "priority"),
        ({"request_id": "x" * 300}, "request_id"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_is_named(api, fields, param):
    answer = await api.post(PATH, {**BODY, **fields})
    assert (answer.status, answer.error["param"]) == (400, param), answer.text
    assert not api.llm.calls


async def test_logits_have_no_probability_among_all_tokens(make_api):
    api = make_api(llm=FakeLLM(logprobs_mode="raw_logits"))
    assert (await api.post(PATH, {**BODY, "apply_softmax": False})).error["param"] == "apply_softmax"
    assert (await score(api))["data"][0]["score"] == pytest.approx(1 / 3)


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 9), st.floats(-50, 0), min_size=1), st.floats(-10, 10))
def test_relative_scores_add_up_and_do_not_depend_on_a_shift(logprobs, shift):
    scores = {label: compute_score(logprobs, label, is_relative=True) for label in logprobs}
    assert sum(scores.values()) == pytest.approx(1)
    shifted = {label: value + shift for label, value in logprobs.items()}
    assert all(compute_score(shifted, label, is_relative=True) == pytest.approx(scores[label]) for label in logprobs)
