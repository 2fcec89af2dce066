"""Tool calls in the answer, whole and streamed."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from jaxserve import ToolCallDelta
from tests.fake_llm import FakeLLM, Piece

F = {"type": "function", "function": {"name": "f"}}
NAMED = {"type": "function", "function": {"name": "f"}}
FIRST = ToolCallDelta(0, "", "id0", "f")
SECOND = ToolCallDelta(1, "{}", "id1", "g")
CALLS = (Piece("Let me see."), Piece(calls=(FIRST,)), Piece(calls=(ToolCallDelta(0, '{"a"'),)))
CALLS += (Piece(calls=(ToolCallDelta(0, ":1}"), SECOND)),)
WHOLE = [
    {"id": "id0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
    {"id": "id1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]


def caller(*pieces):
    return FakeLLM(pieces or CALLS, tool_parser="hermes")


async def choice_of(api, **fields):
    answer = await api.chat(tools=[F], **fields)
    assert answer.status == 200, answer.text
    return answer.json["choices"][0]


async def streamed(api, **fields):
    answer = await api.chat(tools=[F], stream=True, **fields)
    assert answer.status == 200, answer.text
    return [event["choices"][0] for event in answer.events]


async def test_calls_stand_behind_the_text_before_them(make_api):
    choice = await choice_of(make_api(llm=caller()))
    assert (choice["message"]["content"], choice["message"]["tool_calls"]) == ("Let me see.", WHOLE)
    assert (choice["finish_reason"], choice["message"]["reasoning"]) == ("tool_calls", None)


async def test_pieces_that_piled_up_are_one_for_each_call(make_api):
    own = await streamed(make_api(llm=caller()), stream_interval=100)
    assert own[-1]["delta"]["tool_calls"] == [{"index": number, **call} for number, call in enumerate(WHOLE)]
    assert own[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(("text", "content"), [("", None), (" \n", None), (" x ", " x ")])
async def test_content_before_a_call_is_null_if_it_says_nothing(make_api, text, content):
    assert (await choice_of(make_api(llm=caller(Piece(text, calls=(SECOND,))))))["message"]["content"] == content


async def test_without_a_call_the_key_is_absent(make_api):
    choice = await choice_of(make_api(llm=caller("Hello")))
    assert "tool_calls" not in choice["message"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello", "stop")


@pytest.mark.parametrize(("tool_choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
async def test_what_must_be_a_call_has_the_empty_text_as_content(make_api, tool_choice, reason):
    choice = await choice_of(make_api(llm=caller(Piece(calls=(SECOND,)), "behind")), tool_choice=tool_choice)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", reason)
    assert len(choice["message"]["tool_calls"]) == 1
    own = await streamed(make_api(llm=caller(Piece(calls=(SECOND,)), "behind")), tool_choice=tool_choice)
    assert "".join(one["delta"].get("content", "") for one in own) == ""
    (call,) = (call for one in own for call in one["delta"].get("tool_calls", ()))
    assert call["id"] == "id1"
    assert own[-1]["finish_reason"] == reason


@pytest.mark.parametrize("tool_choice", ["required", NAMED])
async def test_a_call_that_was_cut_off_shows_no_raw_text(make_api, tool_choice):
    choice = await choice_of(make_api(llm=caller('[{"na')), tool_choice=tool_choice, max_tokens=3)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
    assert "tool_calls" not in choice["message"]


async def test_an_echo_makes_a_text_of_null(make_api):
    fields = {"messages": [{"role": "assistant", "content": "So: "}], "add_generation_prompt": False, "echo": True}
    for said, content in ((Piece(" ", calls=(SECOND,)), "So: "), (Piece("x", calls=(SECOND,)), "So: x")):
        assert (await choice_of(make_api(llm=caller(said)), **fields))["message"]["content"] == content


async def test_reasoning_and_calls_go_together(make_api):
    llm = FakeLLM((Piece(reasoning="Hm"), Piece(calls=(SECOND,))), tool_parser="hermes", reasoning_parser="qwen3")
    message = (await choice_of(make_api(llm=llm)))["message"]
    assert (message["reasoning"], message["content"], len(message["tool_calls"])) == ("Hm", None, 1)
    assert list(message)[-2:] == ["tool_calls", "reasoning"]


async def test_searches_for_calls_are_counted(make_api):
    api = make_api(llm=caller())
    await choice_of(api)
    await streamed(api)
    await api.chat()
    (family,) = [
        one
        for one in text_string_to_metric_families((await api.get("/metrics")).text)
        if one.name == "vllm:tool_call_parser_invocations"
    ]
    counts = {tuple(sorted(one.labels.items())): one.value for one in family.samples}
    assert len(counts) == 12

    def count(mode, outcome, route="chat_completions"):
        labels = {"model_name": "fake/model", "mode": mode, "outcome": outcome, "request_type": route}
        return counts[tuple(sorted(labels.items()))]

    assert [count("non_streaming", outcome) for outcome in ("tool_call", "no_tool_call")] == [1, 0]
    streams = [count("streaming", outcome) for outcome in ("tool_call", "no_tool_call")]
    assert streams[0] >= 1 and streams[1] <= 1
    assert all(count(mode, "tool_call", "other") == 0 for mode in ("streaming", "non_streaming"))
