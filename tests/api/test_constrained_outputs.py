"""Constraints, tools and reasoning through both APIs, on the tiny model: whatever its weights would rather say."""

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

from jaxserve import (
    ChatOutputSpec,
    ChatPrompt,
    FinishReason,
    InvalidParameter,
    NamedTool,
    SamplingParams,
    StructuredOutputs,
)
from tests.api.conftest import generate, idle

MESSAGES = [{"role": "user", "content": "Who are you?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
}
TOOLS = [
    {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}}}},
]
BY_SCHEMA = StructuredOutputs(json=json.dumps(SCHEMA), disable_any_whitespace=True)
LOOSE = SamplingParams(temperature=1.0, seed=11, max_tokens=120, structured_outputs=BY_SCHEMA)


def is_valid(text):
    return Draft202012Validator(SCHEMA).is_valid(json.loads(text))


class TestConstraints:
    def test_every_choice_is_valid_and_none_like_another(self, llm):
        [found] = llm.generate("x", replace(LOOSE, n=4))
        assert all(is_valid(choice.text) for choice in found.choices)
        assert all(choice.finish_reason is FinishReason.STOP for choice in found.choices)
        assert len({choice.text for choice in found.choices}) == 4

    def test_a_search_finds_valid_answers(self, llm):
        [found] = llm.generate("x", replace(LOOSE, n=3, use_beam_search=True))
        assert all(is_valid(choice.text) for choice in found.choices)

    def test_free_and_bound_answers_do_not_change_each_other(self, llm):
        free = replace(LOOSE, structured_outputs=None, max_tokens=40)
        alone = [llm.chat(MESSAGES, free).text, llm.chat(MESSAGES, LOOSE).text]
        streams = [llm.stream(MESSAGES, params) for params in (free, LOOSE)]
        heard = ["", ""]
        while streams[0] or streams[1]:
            for at, stream in enumerate(streams):
                delta = next(stream, None) if stream else None
                streams[at] = stream if delta else None
                heard[at] += delta.text if delta else ""
        assert heard == alone

    @pytest.mark.parametrize(
        ("wanted", "possible"),
        [
            (StructuredOutputs(choice=("yes", "no", "")), {"yes", "no", ""}),
            (StructuredOutputs(regex="[ab]c?"), {"a", "b", "ac", "bc"}),
            (StructuredOutputs(regex=""), {""}),
            (StructuredOutputs(grammar='root ::= "x" | "yy"'), {"x", "yy"}),
            (StructuredOutputs(grammar='start: "x" | "yy"'), {"x", "yy"}),
        ],
    )
    def test_each_kind(self, llm, wanted, possible):
        params = replace(LOOSE, structured_outputs=wanted, n=5)
        [found] = llm.generate("x", params)
        assert {choice.text for choice in found.choices} <= possible

    def test_what_cannot_be_enforced_is_refused_and_nothing_is_held(self, llm):
        params = replace(LOOSE, structured_outputs=StructuredOutputs(json='{"type": "array", "uniqueItems": true}'))
        with pytest.raises(InvalidParameter, match="uniqueItems"):
            llm.generate("x", params)
        assert idle(llm)


class TestCalls:
    def test_a_required_call_is_made_of_a_declared_tool(self, llm):
        found = llm.chat(MESSAGES, replace(LOOSE, structured_outputs=None), tools=TOOLS, tool_choice="required")
        choice = found.choices[0]
        assert choice.text == ""
        assert {call.name for call in choice.tool_calls} <= {"look_up", "stop"}
        assert all(is_valid(call.arguments) for call in choice.tool_calls if call.name == "look_up")

    def test_a_named_call_is_made_once(self, llm):
        params = replace(LOOSE, structured_outputs=None, max_tokens=200)
        choice = llm.chat(MESSAGES, params, tools=TOOLS, tool_choice=NamedTool("look_up")).choices[0]
        [call] = choice.tool_calls
        assert (call.name, choice.text, choice.finish_reason) == ("look_up", "", FinishReason.STOP)
        assert is_valid(call.arguments)

    def test_streamed_is_as_whole(self, llm):
        params = replace(LOOSE, structured_outputs=None, max_tokens=200)
        how = {"tools": TOOLS, "tool_choice": NamedTool("look_up")}
        [call] = llm.chat(MESSAGES, params, **how).choices[0].tool_calls
        news = [one for delta in llm.stream(MESSAGES, params, **how) for one in delta.tool_calls]
        assert [one.name for one in news if one.name] == ["look_up"]
        assert "".join(one.arguments for one in news) == call.arguments

    def test_auto_needs_a_dialect(self, llm):
        with pytest.raises(InvalidParameter, match="tool-call-parser"):
            llm.chat(MESSAGES, LOOSE, tools=TOOLS, tool_choice="auto")


async def test_async_llm_plans_the_output_that_it_generates(async_llm):
    output = ChatOutputSpec(tools=tuple(TOOLS), tool_choice="required")
    params = replace(LOOSE, structured_outputs=None, max_tokens=200)
    prompt = ChatPrompt(messages=MESSAGES, tools=TOOLS)
    deltas = [one async for one in generate(async_llm, prompt, params, output)]
    assert any(delta.tool_calls for delta in deltas)
    assert not any(delta.text for delta in deltas)


async def test_a_constraint_holds_for_token_ids(async_llm):
    deltas = [one async for one in generate(async_llm, [5, 6, 7], LOOSE)]
    assert is_valid("".join(delta.text for delta in deltas))
