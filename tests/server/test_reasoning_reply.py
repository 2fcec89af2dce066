"""Reasoning in the answer: beside the content, never in it, and counted."""

import pytest

from tests.fake_llm import FakeLLM, Piece

THOUGHT = (Piece(reasoning="Hm"), Piece(reasoning=", so", text="It is"), " blue.")


def thinker(*pieces):
    return FakeLLM(pieces or THOUGHT, reasoning_parser="qwen3")


async def message(api, **fields):
    answer = await api.chat(**fields)
    assert answer.status == 200, answer.text
    return answer.json["choices"][0]["message"]


async def streamed(api, **fields):
    """The choices of a stream's chunks, and what they say together by key."""
    answer = await api.chat(stream=True, **fields)
    assert answer.status == 200, answer.text
    choices = [event["choices"][0] for event in answer.events]
    keys = {key for one in choices for key in one["delta"]}
    return choices, {key: "".join(one["delta"].get(key, "") for one in choices) for key in keys}


async def test_it_stands_beside_the_content(make_api):
    said = await message(make_api(llm=thinker()))
    assert (said["reasoning"], said["content"]) == ("Hm, so", "It is blue.")
    assert list(said) == ["role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"]


async def test_a_stream_tells_it_apart(make_api):
    _, said = await streamed(make_api(llm=thinker()))
    assert said == {"role": "assistant", "reasoning": "Hm, so", "content": "It is blue."}


@pytest.mark.parametrize(
    ("pieces", "reasoning", "content"),
    [
        ((Piece(reasoning="Hm"),), "Hm", None),
        ((Piece(reasoning="Hm", text=" "),), "Hm", " "),
        (("",), None, ""),
        (("x",), None, "x"),
    ],
)
async def test_nothing_behind_it_is_null_and_nothing_at_all_is_the_empty_text(make_api, pieces, reasoning, content):
    said = await message(make_api(llm=thinker(*pieces)))
    assert (said["reasoning"], said["content"]) == (reasoning, content)


async def test_an_answer_that_is_cut_off_while_it_thinks_has_no_content(make_api):
    choice = (await make_api(llm=thinker()).chat(max_tokens=4)).json["choices"][0]
    assert (choice["message"]["reasoning"], choice["message"]["content"]) == ("Hm, ", None)
    assert choice["finish_reason"] == "length"


async def test_an_echo_makes_a_text_of_it(make_api):
    last = [{"role": "assistant", "content": "So: "}]
    for fields, content in (({}, ""), ({"messages": last, "add_generation_prompt": False}, "So: ")):
        said = await message(make_api(llm=thinker(Piece(reasoning="Hm"))), echo=True, **fields)
        assert (said["reasoning"], said["content"]) == ("Hm", content)


async def test_its_old_name_is_told_on_demand(make_api):
    api = make_api(llm=thinker(), legacy_reasoning_content=True)
    assert (await message(api))["reasoning_content"] == "Hm, so"
    said = (await streamed(api))[1]
    assert said["reasoning_content"] == said["reasoning"] == "Hm, so"
    assert (await message(make_api(legacy_reasoning_content=True)))["reasoning_content"] is None


async def test_what_is_not_told_does_not_leak(make_api):
    """include_reasoning false: neither the words nor the tokens behind them, whole or streamed."""
    fields = {"include_reasoning": False, "logprobs": True, "return_token_ids": True}
    answer = (await make_api(llm=thinker(), legacy_reasoning_content=True).chat(**fields)).json
    (choice,) = answer["choices"]
    assert (choice["logprobs"], choice["token_ids"]) == (None, None)
    assert (choice["message"]["reasoning"], choice["message"]["reasoning_content"]) == (None, None)
    assert choice["message"]["content"] == "It is blue."
    assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}
    choices, said = await streamed(make_api(llm=thinker(), legacy_reasoning_content=True), **fields)
    assert said == {"role": "assistant", "content": "It is blue."}
    assert not any(one["logprobs"] or "token_ids" in one for one in choices)


async def test_where_nothing_reasons_tokens_are_told_all_the_same(api):
    (choice,) = (await api.chat(include_reasoning=False, logprobs=True, return_token_ids=True)).json["choices"]
    assert len(choice["logprobs"]["content"]) == len(choice["token_ids"]) == 11


async def test_usage_counts_it_where_a_parser_is(make_api):
    api = make_api(llm=thinker())
    assert (await api.chat()).json["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}
    last = (await api.chat(stream=True, stream_options={"include_usage": True})).events[-1]
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": 6}
    assert "completion_tokens_details" not in (await api.complete()).json["usage"]
    assert "completion_tokens_details" not in (await make_api().chat()).json["usage"]
    assert (await make_api(llm=thinker("x")).chat()).json["usage"]["completion_tokens_details"] == {
        "reasoning_tokens": 0
    }
