"""Function names: a name that a grammar writes is parsed, or the request is refused with the dialect's name."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.chat_output_spec import NamedTool
from jaxserve.errors import InvalidParameter
from jaxserve.text.dialects import TOOL_PARSERS
from jaxserve.text.output_dialect import OutputDialect
from tests.structured.byte_tokenizer import matcher_of
from tests.text.call_writers import WRITERS
from tests.text.grammar_walks import walk
from tests.text.parsing import dialect, output_spec, parse, tool

PARSERS = sorted(name for name, found in TOOL_PARSERS.items() if found is not None)
BREAKING = [
    "get time",
    "a>b",
    "a<b",
    "f(x)",
    'say"it',
    "a\\b",
    "a\nb",
    "a,b",
    "a=b",
    "a{b",
    "a[b]",
    "'a'",
    "",
    "x" * 300,
]
PLAIN = ["get_weather", "a.b", "mcp__x-y", "ns:f", "größe", "a/b"]
NAMES = st.sampled_from([*BREAKING, *PLAIN]) | st.text(min_size=1, max_size=12).filter(lambda name: "\0" not in name)


def called(name, function, choice, text):
    calls = parse(dialect(name), text, tools=(tool(function),), tool_choice=choice).calls
    return [each[0] for each in calls]


@given(st.sampled_from(PARSERS), NAMES, st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_name_is_read_back_from_its_grammar_or_refused(name, function, is_named):
    choice = NamedTool(function) if is_named else "required"
    format = output_spec(tools=(tool(function),), tool_choice=choice, parallel_tool_calls=False)
    try:
        dialect(name).check_function_names(format, name)
    except InvalidParameter as refused:
        assert refused.param == "tools.0.function.name" and name in str(refused)
        return
    answer = walk(matcher_of(dialect(name).build_expr(format)), random.Random(0))
    assert called(name, function, choice, answer) == [function]


@pytest.mark.parametrize("name", PARSERS)
def test_ordinary_names_are_taken_by_every_dialect_and_read_in_what_its_models_write(name):
    for function in PLAIN:
        dialect(name).check_function_names(output_spec(tools=(tool(function),)), name)
        assert called(name, function, "auto", WRITERS[name]([(function, {})])) == [function]


@pytest.mark.parametrize("name", ["qwen3_coder", "glm45", "pythonic", "gemma4", "kimi_k2", "openai", "deepseek_v32"])
@pytest.mark.parametrize("choice", ["auto", "required", NamedTool("get time")])
def test_a_name_that_a_dialect_cannot_read_is_refused_at_every_choice_but_none(name, choice):
    tools = (tool("fine"), tool("get time"))
    with pytest.raises(InvalidParameter, match=rf"'get time'.*'{name}'") as caught:
        dialect(name).check_function_names(output_spec(tools=tools, tool_choice=choice), name)
    assert caught.value.param == "tools.1.function.name"
    dialect(name).check_function_names(output_spec(tools=tools, tool_choice="none"), name)


def test_a_name_may_not_hold_a_special_token_which_would_be_written_as_the_token():
    bound = OutputDialect.from_dialects(TOOL_PARSERS["hermes"], None, {"<|im_end|>": 7})
    with pytest.raises(InvalidParameter, match="special tokens"):
        bound.check_function_names(output_spec(tools=(tool("a<|im_end|>b"),)), "hermes")
