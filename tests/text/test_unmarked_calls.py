"""Calls in a form of no dialect are parsed in every dialect; text that only looks like one is unchanged."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.outputs import FinishReason
from jaxserve.text.argument_check import accepts_arguments
from jaxserve.text.call_formats.format import FunctionSpec
from jaxserve.text.dialects import TOOL_PARSERS
from tests.text.call_writers import WRITERS
from tests.text.parsing import collect, cuts, dialect, output_spec, parse, random_pieces, tool

PARSERS = sorted(name for name, found in TOOL_PARSERS.items() if found is not None)
OSLO, NOW = ("get_weather", {"city": "Oslo"}), ("now", {})
CALL = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
FORMS = [
    CALL,
    f"```json\n{CALL}\n```",
    f"```\n{CALL}\n```\n",
    f"```xml\n<function_call>\n{CALL}\n</function_call>\n```",
    f"<tools>\n{CALL}\n</tools>",
    f"<function_call>{CALL}</function_call>",
    CALL.replace("arguments", "parameters"),
    '{\n  "arguments": {"city": "Oslo"},\n  "name": "get_weather"\n}',
    CALL.replace('{"city": "Oslo"}', json.dumps('{"city": "Oslo"}')),
    f"[{CALL}]",
    '{"type": "function", "function": ' + CALL + "}",
]
NO_CALLS = [
    CALL.replace("get_weather", "no_such_tool"),
    f"```json\n{CALL[:-1]}\n```",
    f'{{"calls": [{CALL}]}} and so on',
    '[{"name": "get_weather", "arguments": {}}, {"name": "Bob", "arguments": {}}]',
    '{"name": "get_weather", "arguments": ["Oslo"]}',
    '{"name": "get_weather"}',
    '{"name": "get_weather", "description": "x", "parameters": {}}',
    '{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}',
    '```json\n{"a": 1, "b": [1, 2]}\n```\n<tools> {x} [y] ``` {"',
    "int main() { return a[0] < b; } ```",
]


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.parametrize("form", FORMS)
def test_a_call_in_another_form_is_read(name, form):
    for before in ("", "I look it up:\n"):
        text = before + form
        whole = parse(dialect(name), text)
        assert (whole.content, whole.parsed) == (before, [OSLO])
        for pieces in cuts(text) if name in ("hermes", "qwen3_coder") else [list(text)]:
            assert parse(dialect(name), pieces) == whole


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "glm45", "mistral", "openai"])
def test_several_are_read_one_after_the_other_or_as_a_list(name):
    now = CALL.replace("get_weather", "now").replace('{"city": "Oslo"}', "{}")
    for text in (f"{CALL}\n{now}", f"```json\n{CALL}\n```\nand\n```json\n{now}\n```", f"[{CALL}, {now}]"):
        assert parse(dialect(name), list(text)).parsed == [OSLO, NOW]
        assert parse(dialect(name), list(text), parallel_tool_calls=False).parsed == [OSLO]


@pytest.mark.parametrize("text", NO_CALLS)
def test_what_only_begins_like_a_call_is_content(text):
    for name in ("hermes", "qwen3_coder", "kimi_k2"):
        for pieces in cuts(text):
            parser = dialect(name).create_parser(output_spec())
            assert (result := collect(parser, pieces)).content == text and not result.calls
            assert parser.finish_reason(FinishReason.STOP) == "stop"


def test_text_is_held_back_only_while_it_may_be_a_call():
    parser = dialect("hermes").create_parser(output_spec())
    pieces = ["```", "json\n{", '"na', 'me": "get_wea', 'ther", "arg', "uments", '": {"a": [1', "]}", "}", "\n```"]
    assert [parser.feed(piece).content for piece in pieces] == [""] * 10
    parser = dialect("hermes").create_parser(output_spec())
    result = [parser.feed(piece).content for piece in ("```", "json\n{", '"a', '": "b', "c", '": [', "1")]
    assert result == ["", "", "", '```json\n{"a": "b', "c", '": [', "1"]


def test_they_are_read_only_where_the_model_may_choose_and_its_answer_is_free():
    assert parse(dialect("hermes"), CALL, tool_choice="none").content == CALL
    assert parse(dialect("hermes"), CALL, tools=()).content == CALL
    result = collect(dialect("hermes").create_parser(output_spec(), is_constrained=True), [CALL])
    assert (result.content, result.calls) == (CALL, ())


def test_after_a_call_in_its_own_form_a_model_is_not_misread():
    own = WRITERS["hermes"]([OSLO])
    assert parse(dialect("hermes"), own + "\nThat was " + CALL).parsed == [OSLO]
    assert parse(dialect("llama3_json"), f"```json\n{CALL}\n```") == parse(dialect("llama3_json"), CALL)


def test_a_call_in_the_reasoning_is_none():
    result = parse(dialect("hermes", "qwen3"), list(f"Maybe {CALL}?</think>{CALL}"))
    assert (result.reasoning, result.content, result.parsed) == (f"Maybe {CALL}?", "", [OSLO])


STRICT = tool("f", True, a={"type": "integer", "minimum": 1}, b={"anyOf": [{"$ref": "#/$defs/b"}, {"type": "null"}]})
STRICT["function"]["parameters"] |= {"additionalProperties": False, "$defs": {"b": {"enum": ["x"]}}}


@pytest.mark.parametrize(
    ("given", "is_valid"),
    [
        ('{"a": 1, "b": "x"}', True),
        ('{"a": 1.0, "b": null}', True),
        ('{"a": 0, "b": "x"}', False),
        ('{"a": true, "b": "x"}', False),
        ('{"a": 1, "b": "y"}', False),
        ('{"a": 1}', False),
        ('{"a": 1, "b": "x", "c": 1}', False),
    ],
)
def test_a_strict_function_is_called_only_with_valid_arguments(given, is_valid):
    result = parse(dialect("hermes"), f'{{"name": "f", "arguments": {given}}}', tools=(STRICT,))
    assert bool(result.calls) is is_valid
    odd = FunctionSpec("f", {"type": "object", "propertyNames": {"pattern": "a"}}, is_strict=True)
    assert not accepts_arguments(given, odd)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_cut_changes_the_result(data):
    parts = [
        "```",
        "json\n",
        "<tools>",
        "</tools>",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        '"name"',
        '"now"',
        '"arguments"',
        " x ",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from([*parts, CALL, CALL[:30], "<tool_call>"]), max_size=20)))
    name = data.draw(st.sampled_from(["hermes", "llama3_json", "qwen3_coder", "pythonic", "mistral"]))
    whole = parse(dialect(name), text)
    assert parse(dialect(name), list(text)) == whole
    assert parse(dialect(name), random_pieces(text, random.Random(data.draw(st.integers(0, 99))))) == whole
    assert whole.calls or whole.content == text
