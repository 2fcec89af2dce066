"""use_beam_search through HTTP on a real, tiny model."""

from itertools import pairwise
from typing import Any

import pytest

from tests.end_to_end.test_request_fields import pieces_of

SEARCH = {"use_beam_search": True, "max_tokens": 16, "return_token_ids": True, "temperature": 0}


async def test_streamed_is_whole(api):
    fields = SEARCH | {"n": 3, "logprobs": True, "top_logprobs": 2, "stop": ["a", "e"]}
    whole = (await api.chat(**fields)).json
    events = (await api.chat(**fields, stream=True, stream_options={"include_usage": True})).events
    assert events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    for own, expected in zip(pieces_of(events[:-1]), whole["choices"], strict=True):
        role, only = own
        assert role["delta"] == {"role": "assistant", "content": ""}
        assert only["delta"] == {"content": expected["message"]["content"]}
        for key in ("finish_reason", "stop_reason", "token_ids", "logprobs"):
            assert only[key] == expected[key]


@pytest.mark.parametrize("penalty", [0, 1, -2.5])
async def test_choices_are_ranked_and_counted(api, penalty):
    reply = (await api.chat(**SEARCH, n=4, logprobs=True, length_penalty=penalty)).json
    values = []
    for at, choice in enumerate(reply["choices"]):
        content = choice["logprobs"]["content"]
        assert (choice["index"], len(content)) == (at, len(choice["token_ids"]))
        values.append(sum(entry["logprob"] for entry in content) / len(content) ** penalty)
    assert values == sorted(values, reverse=True)
    assert reply["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in reply["choices"])


async def test_both_routes_find_the_same(api):
    chat = (await api.chat(**SEARCH, n=3)).json
    ids = (await api.chat(**SEARCH, n=3)).json["prompt_token_ids"]
    completion = (await api.complete(prompt=ids, **SEARCH, n=3)).json
    for one, other in zip(chat["choices"], completion["choices"], strict=True):
        assert (one["message"]["content"], one["token_ids"]) == (other["text"], other["token_ids"])
        assert (one["finish_reason"], one["stop_reason"]) == (other["finish_reason"], other["stop_reason"])


async def test_an_end_token_is_the_reason_the_primary_one_too(api, llm):
    eos = llm.tokenizer.eos_token_id
    fields = SEARCH | {"n": 2, "logit_bias": {str(eos): 10}, "length_penalty": 0}
    choices = (await api.chat(**fields)).json["choices"]
    ended = [one for one in choices if one["stop_reason"] == eos]
    assert ended and all(one["finish_reason"] == "stop" and one["token_ids"][-1] == eos for one in ended)
    for one in (await api.chat(**fields, ignore_eos=True)).json["choices"]:
        assert (one["finish_reason"], len(one["token_ids"])) == ("length", 16)


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ({"allowed_token_ids": [65, 66, 67]}, lambda ids: set(ids) <= {65, 66, 67}),
        ({"logit_bias": {"70": 100}}, lambda ids: set(ids) == {70}),
        ({"logit_bias": {"70": 30}, "repetition_penalty": 50.0}, lambda ids: 70 in ids),
        ({"logit_bias": {"70": 100}, "bad_words": ["CC"]}, lambda ids: (70, 70) not in pairwise(ids)),
        ({"min_tokens": 9}, lambda ids: len(ids) >= 9),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
async def test_what_shapes_a_draw_shapes_a_search(api, llm, fields: dict[str, Any], check):
    if "bad_words" in fields:
        fields["bad_words"] = [llm.tokenizer.decode([70, 70])]
    n = 1 if fields.get("logit_bias") == {"70": 100} and "bad_words" not in fields else 3
    reply = await api.chat(**SEARCH | {"n": n} | fields)
    assert all(check(choice["token_ids"]) for choice in reply.json["choices"]), reply.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_width_that_cannot_run_is_told_before_anything_runs(api, path):
    prompt = {"messages": [{"role": "user", "content": "x"}]} if "chat" in path else {"prompt": "x"}
    answer = await api.post(path, SEARCH | prompt | {"n": 9})
    assert (answer.status, answer.error["param"]) == (400, "n")
    assert "max_num_seqs" in answer.error["message"]
