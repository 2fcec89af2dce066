"""Every dialect parses what its models write, alike in any pieces, in a stream and as a whole."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.outputs import FinishReason
from jaxserve.text.dialects import TOOL_PARSERS
from tests.text.call_writers import WRITERS, dumps
from tests.text.parsing import collect, cuts, dialect, output_spec, parse, random_pieces

PARSERS = sorted(name for name, found in TOOL_PARSERS.items() if found is not None)
SCENES = {
    "one": [("get_weather", {"city": "Paris", "days": 3})],
    "several": [("get_weather", {"city": "Paris"}), ("now", {}), ("get_weather", {"city": "Oslo", "days": -1})],
    "nothing": [("now", {})],
    "undeclared": [("no_such-tool", {"a": "1"})],
    "nested": [
        (
            "search",
            {
                "filter": {"a": [{"b": "}]"}, {}], "deep": {"x": None, "y": [[1], [2.5]]}},
                "tags": ["x, y", "{z}"],
                "limit": 2.5,
                "exact": True,
                "after": None,
            },
        )
    ],
    "letters": [("write", {"text": 'Größe: "42" \\ \'x\' 😀\n\tline\u2028 新年 \\n {"a": [1'})],
    "markup": [
        (
            "write",
            {
                "text": '</tool_call><tool_call>{"name": "x"}</think> [TOOL_CALLS] </parameter> </function ```'
                " <|python_tag|> </tool_calls> </arg_value> [f(x=1)], ) } <function=a> </｜DSML｜invoke>"
            },
        ),
        ("now", {}),
    ],
}
BEFORE = "Let me see: a < b, {x} [y] 😀.\n"
JSON_PARSERS = [name for name in PARSERS if '{"city": ' in WRITERS[name](SCENES["one"])]
ONLY_AT_THE_BEGINNING = {"pythonic", "xlam", "openai"}


def test_every_parser_has_a_writer():
    assert sorted(WRITERS) == PARSERS


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("name", PARSERS)
def test_calls_are_read_as_they_were_written_however_the_text_is_cut(name, scene):
    bound, calls = dialect(name), SCENES[scene]
    for before in ("", BEFORE):
        if before and name in ONLY_AT_THE_BEGINNING:
            continue
        text = before + WRITERS[name](calls)
        whole = parse(bound, text)
        assert whole.parsed == calls
        assert (whole.content, whole.reasoning) == (before, "")
        for pieces in cuts(text):
            assert parse(bound, pieces) == whole


@pytest.mark.parametrize("name", JSON_PARSERS)
def test_arguments_that_are_json_stay_as_the_model_wrote_them(name):
    odd = '{ "city" :"\\u0050aris\\/", "days":[ 1 ,2e1 ] }'
    text = WRITERS[name]([("get_weather", {"city": "Paris"})]).replace(dumps({"city": "Paris"}), odd)
    assert parse(dialect(name), text).calls == (("get_weather", odd),)


@pytest.mark.parametrize("name", PARSERS)
def test_a_call_that_is_cut_off_is_reported_so_far_or_is_content(name):
    bound, calls = dialect(name), SCENES["several"]
    text = WRITERS[name](calls)
    whole = parse(bound, text)
    for end in range(len(text)):
        result = parse(bound, text[:end], is_cut=True)
        assert parse(bound, list(text[:end]), is_cut=True) == result
        assert [call[0] for call in result.calls] == [call[0] for call in whole.calls[: len(result.calls)]]
        assert all(part[1].startswith(some[1]) for part, some in zip(whole.calls, result.calls, strict=False))
        assert not (result.calls and result.content)
        assert result.calls or name == "openai" or result.content == text[:end]


@pytest.mark.parametrize("name", PARSERS)
def test_only_calls_that_are_whole_are_a_reason_to_end(name):
    text = WRITERS[name](SCENES["several"])
    for end in range(len(text)):
        parser = dialect(name).create_parser(output_spec())
        result = collect(parser, list(text[:end]), is_cut=True)
        is_whole = all(is_object(arguments) for _, arguments in result.calls)
        assert all(arguments.startswith("{") for _, arguments in result.calls)
        assert parser.finish_reason(FinishReason.STOP) == ("tool_calls" if result.calls and is_whole else "stop")
        assert parser.finish_reason(FinishReason.LENGTH) == "length"


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@pytest.mark.parametrize("name", PARSERS)
def test_a_text_without_calls_is_content(name):
    bound = dialect(name)
    for text in ("Hello!", BEFORE, " \n", '{"a": 1}', "[1, 2]", "<b>bold</b> `x[0](y)`", "[a](b)"):
        for pieces in cuts(text):
            assert parse(bound, pieces).content == text


def fragments(name: str) -> list[str]:
    """What this dialect's texts are made of, and what may be mistaken for it."""
    text = WRITERS[name](SCENES["several"]) + WRITERS[name](SCENES["nested"])
    found = re.findall(r"<[^<>\s]*>?|\[[A-Z_]+\]|[{}()\[\],:=;]|\w+|\s+|\"", text)
    return sorted({*found, "<", "<think>", "</think>", "\\", '"', "{", "}", "[", "]", "\n", "x", "'", "é", "null", "1"})


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_breaks_a_parser_and_no_cut_changes_its_result(name, data):
    text = "".join(data.draw(st.lists(st.sampled_from(fragments(name)), max_size=30)))
    bound = dialect(name, data.draw(st.sampled_from([None, "qwen3", "mistral", "granite"])))
    whole = parse(bound, text)
    assert parse(bound, list(text)) == whole
    pieces = random_pieces(text, random.Random(data.draw(st.integers(0, 99))))
    assert parse(bound, pieces) == whole
