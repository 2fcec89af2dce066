"""Outputs are parsed by a checkpoint's response_template as transformers parses them, however they are cut."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_parsing import parse_response

from jaxserve.errors import BadCheckpoint, BadConfig
from jaxserve.text.output_dialect import OutputDialect
from tests.text.parsing import TOOLS, collect, cuts, output_spec, parse, random_pieces

FUNCTION = {"type": "function", "function": "{content}"}
THINK = {"open": "<think>", "close": "</think>"}


def template(calls, content=None, thinking=THINK, **others):
    fields = {"thinking": thinking, "content": content or {"close": "<|im_end|>"}, "tool_calls": calls}
    return {"start_anchor": "<|im_start|>assistant\n", "fields": fields, **others}


TEMPLATES = {
    "json": (
        template(
            {"open": "<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json", "transform": FUNCTION}
        ),
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "</think> {\\""}}\n</tool_call>'
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
    ),
    "list": (
        template(
            {
                "open": ["<|START_ACTION|>", "<|ACTION|>"],
                "close": "<|END_ACTION|>",
                "content": "json",
                "transform_each": True,
                "transform": {"type": "function", "function": {"name": "{tool_name}", "arguments": "{parameters}"}},
            }
        ),
        '<|START_ACTION|>[{"tool_name": "now", "parameters": {}}, '
        '{"id": 1, "tool_name": "write", "parameters": {"text": "é]"}}]<|END_ACTION|>',
    ),
    "named": (
        template(
            {
                "open_pattern": r"<\|channel\|>commentary to=functions\.(?P<name>\w+)[^{]*<\|message\|>",
                "close": "<|call|>",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            thinking={"open": "<|channel|>analysis<|message|>", "close": "<|end|>"},
            content={"open": "<|channel|>final<|message|>", "close_pattern": r"<\|end\|>|<\|return\|>"},
        ),
        '<|channel|>commentary to=functions.write <|constrain|>json<|message|>{"text": "a{"}<|call|>',
    ),
    "xml": (
        template(
            {
                "open_pattern": r"<tool_call>\s*<function=(?P<name>\w+)>",
                "close": "</tool_call>",
                "repeats": True,
                "content": "xml-inline",
                "content_args": {"tag_pattern": r"<parameter=(?P<key>\w+)>\n?(?P<value>.*?)\n?</parameter>"},
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            }
        ),
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "</function>\n</tool_call><tool_call><function=now></function></tool_call>",
    ),
    "gemma": (
        template(
            {
                "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
                "close": "<tool_call|>",
                "repeats": True,
                "content": "json",
                "content_args": {"string_delims": [['<|"|>', '<|"|>']], "unquoted_keys": True},
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
            thinking={"open": "<|channel>thought\n", "close": "<channel|>"},
        ),
        '<|tool_call>call:get_weather{city:<|"|>Oslo, {x}<|"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>',
    ),
    "python": (
        template(
            {
                "open": "<|tool_call_start|>",
                "close": "<|tool_call_end|>",
                "content": "python-call-list",
                "transform_each": True,
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{arguments}"}},
            }
        ),
        '<|tool_call_start|>[get_weather(city="Os\'lo", days=3), now()]<|tool_call_end|>',
    ),
}
NAMES = sorted(TEMPLATES)


def bound(spec, tools="hf", reasoning="hf", special_tokens=()):
    return OutputDialect.from_parser_names(tools, reasoning, dict.fromkeys(special_tokens, 0), spec)


def oracle(spec, text, prompt=""):
    """What transformers makes of it."""
    message = parse_response(text, spec, prefix=prompt, tools=list(TOOLS))
    calls = [call["function"] for call in message.get("tool_calls") or []]
    parsed = [(call["name"], call["arguments"]) for call in calls]
    return message.get("thinking", ""), message.get("content", ""), parsed


def as_message(result):
    return result.reasoning, result.content, result.parsed


def texts(name):
    spec, calls = TEMPLATES[name]
    thinking, content = spec["fields"]["thinking"], spec["fields"]["content"]
    thought = thinking["open"] + "\n I see: <x> \n" + thinking["close"]
    said = content.get("open", "") + "\n Hello < you.\n\n" + ("<|end|>" if "open" in content else "")
    return [said, thought, thought + said, thought + calls, thought + said + calls, calls, said + calls]


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_read_as_transformers_reads_them(name):
    spec = TEMPLATES[name][0]
    for text in texts(name):
        expected = oracle(spec, text)
        for pieces in cuts(text):
            assert as_message(parse(bound(spec), pieces)) == expected
        assert as_message(parse(bound(spec), list(text))) == expected


@pytest.mark.parametrize("name", NAMES)
def test_what_the_prompt_has_begun_goes_on_in_the_answer(name):
    spec = TEMPLATES[name][0]
    thinking = spec["fields"]["thinking"]
    prompt = f"<|im_start|>user\n{thinking['open']}<|im_start|>assistant\n"
    for begun in ("", thinking["open"], thinking["open"] + "\n", f"{thinking['open']}\n\n{thinking['close']}\n\n"):
        for text in (f"hm {thinking['close']}", *texts(name)):
            result = parse(bound(spec), list(text), prompt_text=prompt + begun)
            expected = oracle(spec, text, prompt + begun)
            assert (result.reasoning, result.content) == expected[:2]
            assert result.parsed == expected[2]


def test_arguments_in_json_stream_as_they_are_written():
    parser = bound(TEMPLATES["json"][0]).create_parser(output_spec())
    result = parser.feed('<tool_call>{"name": "now", "arguments": {"a" :')
    assert [delta.arguments for delta in result.tool_calls] == ["", '{"a" :']


def test_the_text_goes_on_as_it_comes_without_white_space_at_its_ends():
    parser = bound(TEMPLATES["json"][0]).create_parser(output_spec())
    result = [parser.feed(piece).content for piece in (" \n", " a \n", "b ", "<too", "k>")]
    assert result == ["", "a", " \nb", "", " <took>"]


def test_a_region_that_is_no_call_is_content():
    spec = TEMPLATES["xml"][0]
    for text in ("<tool_call>\n<function=f", "<tool_call> nothing </tool_call>"):
        assert parse(bound(spec), list(text)).content == text
    text = '<|tool_call>call:now{"a": tru}<tool_call|>'
    assert parse(bound(TEMPLATES["gemma"][0]), list(text)).content == text


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_breaks_it_and_no_cut_changes_its_result(name, data):
    spec, calls = TEMPLATES[name]
    parts = [calls[a : a + 9] for a in range(0, len(calls), 9)] + ["<think>", "</think>", "<|im_end|>", "\n", "x", "<"]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), max_size=25)))
    whole = parse(bound(spec), text)
    assert parse(bound(spec), list(text)) == whole
    pieces = random_pieces(text, random.Random(data.draw(st.integers(0, 99))))
    assert parse(bound(spec), pieces) == whole


def test_one_of_the_two_may_be_left_out():
    spec, calls = TEMPLATES["json"]
    text = "<think>a</think>" + calls
    assert parse(bound(spec, reasoning=None), text).content == "a"
    result = parse(bound(spec, tools=None), text)
    assert (result.reasoning, result.calls) == ("a", ()) and "get_weather" in result.content
    assert parse(bound(spec), text, tool_choice="none").calls == ()


def test_it_gives_grammars_what_they_need_where_calls_are_json_between_literals():
    found = bound(TEMPLATES["json"][0])
    assert found.build_expr(output_spec(tool_choice="required")) is not None
    assert found.reasoning is not None and found.reasoning.close == ("</think>",)
    result = parse(bound(TEMPLATES["xml"][0]), '[{"name": "now", "parameters": {}}]', tool_choice="required")
    assert result.calls == (("now", "{}"),)


def test_special_tokens_are_known_in_literals_and_in_regexes():
    spec, calls = TEMPLATES["gemma"]
    special = {"<|tool_call>": 1, "<tool_call|>": 2, '<|"|>': 3, "<|channel>": 4, "<other>": 5}
    found = OutputDialect.from_parser_names("hf", "hf", special, spec)
    assert set(found.control_tokens) == {1, 2, 3, 4}
    text = calls
    for token, id in special.items():
        text = text.replace(token, found.control_tokens.get(id, token))
    result = collect(found.create_parser(output_spec()), list(text))
    assert [name for name, _ in result.calls] == ["get_weather", "now"]
    assert json.loads(result.calls[0][1]) == {"city": "Oslo, {x}", "days": 3}
    assert collect(found.create_parser(output_spec()), [calls]).calls == ()


def test_a_template_that_is_none_is_refused_with_the_reason():
    with pytest.raises(BadCheckpoint, match=r"response_template cannot be used: .*version"):
        bound({"version": 2, "fields": {"content": {}}})
    with pytest.raises(BadConfig, match="needs a checkpoint that has a response_template"):
        bound(None)
    with pytest.raises(BadConfig, match="cannot be mixed with another: tool_call_parser is hermes"):
        bound(TEMPLATES["json"][0], tools="hermes")
