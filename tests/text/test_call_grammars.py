"""Outputs that a dialect's grammar allows are parsed as calls of declared functions with valid arguments."""

import json
import random

import jsonschema
import pytest

from jaxserve.chat_output_spec import NamedTool
from jaxserve.structured.compiler import GrammarCompiler
from jaxserve.text.call_formats.format import collect_functions
from jaxserve.text.dialects import TOOL_PARSERS
from tests.structured.byte_tokenizer import accepts, byte_tokenizer
from tests.text.call_writers import WRITERS
from tests.text.grammar_walks import walk
from tests.text.parsing import dialect, output_spec, parse, tool

PARSERS = sorted(name for name, found in TOOL_PARSERS.items() if found is not None)
STRICT = (
    tool("now", strict=True),
    tool(
        "get_weather",
        strict=True,
        city={"type": "string", "enum": ["Oslo", "Rome"]},
        days={"type": "integer", "minimum": 0, "maximum": 99, "optional": True},
        hourly={"type": "boolean"},
        tags={"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 2, "optional": True},
    ),
)
SCHEMAS = {each["function"]["name"]: each["function"]["parameters"] for each in STRICT}
GENERIC = "generic"


@pytest.fixture(scope="module")
def compiler():
    compiler = GrammarCompiler(byte_tokenizer())
    yield compiler
    compiler.close()


def bound(name):
    return dialect(None if name == GENERIC else name)


def compiled(compiler, name, **fields):
    shape = bound(name).build_expr(output_spec(tools=STRICT, **fields))
    assert shape is not None
    return compiler.compile(shape)


def check(calls):
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("name", [*PARSERS, GENERIC])
@pytest.mark.parametrize("parallel", [True, False])
def test_required_calls_are_calls(compiler, name, parallel):
    fields = {"tools": STRICT, "tool_choice": "required", "parallel_tool_calls": parallel}
    grammar = compiled(compiler, name, tool_choice="required", parallel_tool_calls=parallel)
    answers = [answer for seed in range(12) if (answer := walk(grammar.new_matcher(), random.Random(seed)))]
    assert len(answers) >= 8
    numbers = set()
    for answer in answers:
        whole = parse(bound(name), answer, **fields)
        assert whole.content == "" and whole.calls, answer
        assert parse(bound(name), list(answer), **fields) == whole
        check(whole.calls)
        numbers.add(len(whole.calls))
    assert (max(numbers) > 1) == (parallel and name != "openai")


@pytest.mark.parametrize("name", [*PARSERS, GENERIC])
def test_a_named_function_is_called_once(compiler, name):
    choice = NamedTool("get_weather")
    grammar = compiled(compiler, name, tool_choice=choice)
    answers = [answer for seed in range(8) if (answer := walk(grammar.new_matcher(), random.Random(seed)))]
    assert len(answers) >= 6
    for answer in answers:
        result = parse(bound(name), answer, tools=STRICT, tool_choice=choice)
        assert result.content == "" and [call[0] for call in result.calls] == ["get_weather"], answer
        check(result.calls)


@pytest.mark.parametrize("name", PARSERS)
def test_with_strict_functions_an_output_is_free_outside_their_calls(compiler, name):
    grammar = compiled(compiler, name, tool_choice="auto")
    header = "<|channel|>final<|message|>" if name == "openai" else ""
    for text in ("Hello.", "\n Hello", "Is 3 < 4? {x} [y]"):
        assert accepts(grammar.new_matcher(), header + text)
    call = WRITERS[name]([("get_weather", {"city": "Rome", "hourly": True})])
    wrong = WRITERS[name]([("get_weather", {"city": "Bonn", "hourly": True})])
    if name in SAME_SPELLING:
        assert accepts(grammar.new_matcher(), call)
        assert not accepts(grammar.new_matcher(), wrong)
    for seed in range(8):
        answer = walk(grammar.new_matcher(), random.Random(seed), 300)
        if answer is not None:
            check(parse(bound(name), answer, tools=STRICT).calls)


# Their grammars write calls as the writers do, to the last blank.
SAME_SPELLING = {
    "hermes", "qwen3_json", "granite4", "jamba", "hunyuan_a13b", "deepseek_v3", "deepseek_v31", "kimi_k2", "longcat",
    "internlm", "llama3_json", "mimo", "glm47", "phi4_mini_json",
}  # fmt: skip


def test_other_functions_keep_free_arguments_beside_strict_ones(compiler):
    tools = (STRICT[0], tool("search", query={"type": "string"}))
    grammar = compiler.compile(dialect("hermes").build_expr(output_spec(tools=tools)))
    call = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
    assert accepts(grammar.new_matcher(), call.format("search", '{"anything": [1]}'))
    assert accepts(grammar.new_matcher(), call.format("now", "{}"))
    assert not accepts(grammar.new_matcher(), call.format("now", '{"anything": [1]}'))
    assert not accepts(grammar.new_matcher(), call.format("other", "{}"))


def test_a_free_output_has_no_grammar():
    loose = (tool("now"),)
    for fields in ({"tools": loose}, {"tools": ()}, {"tools": STRICT, "tool_choice": "none"}):
        assert dialect("hermes").build_expr(output_spec(**fields)) is None
    assert dialect(None).build_expr(output_spec(tools=STRICT)) is None


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "glm47", "pythonic", "gemma4", "deepseek_v32"])
def test_a_string_is_free_up_to_its_end(compiler, name):
    tools = (tool("write", text={"type": "string"}),)
    choice = NamedTool("write")
    grammar = compiler.compile(dialect(name).build_expr(output_spec(tools=tools, tool_choice=choice)))
    text = "It's 3 < 4, {a: [b]}\n</parm> & more"
    answer = WRITERS[name]([("write", {"text": text})]).rstrip()
    if name == "pythonic":
        answer = f"[write(text={json.dumps(text)})]"
    assert accepts(grammar.new_matcher(), answer)
    result = parse(dialect(name), answer, tools=tools, tool_choice=choice)
    assert json.loads(result.calls[0][1]) == {"text": text}


def test_names_are_those_that_were_declared():
    [function] = collect_functions((tool("now"),)).values()
    assert (function.name, function.is_strict, function.is_enforced) == ("now", False, True)


@pytest.mark.parametrize("name", ["llama4_pythonic", "xlam"])
def test_a_strict_function_is_enforced_after_the_other_openers_of_unmarked_calls_too(compiler, name):
    grammar = compiled(compiler, name, tool_choice="auto")
    for opener in filter(None, TOOL_PARSERS[name].open):
        assert not accepts(grammar.new_matcher(), f"{opener}[1]")
        assert not accepts(grammar.new_matcher(), f"So: {opener}[1]")
    assert accepts(grammar.new_matcher(), "So: [1] < 2") and accepts(grammar.new_matcher(), "")
