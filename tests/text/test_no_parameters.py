"""A function without parameters is called with an empty object, in every dialect and for every tool choice."""

import random

import pytest

from jaxserve.chat_output_spec import NamedTool
from jaxserve.structured.compiler import GrammarCompiler
from jaxserve.text.dialects import TOOL_PARSERS
from tests.structured.byte_tokenizer import accepts, byte_tokenizer
from tests.text.call_writers import WRITERS
from tests.text.grammar_walks import walk
from tests.text.parsing import dialect, output_spec, parse

PARSERS = sorted(name for name, found in TOOL_PARSERS.items() if found is not None)
NONE_SAID = ({}, {"parameters": None}, {"parameters": {}})
GENERIC = "generic"


def tools(said, **fields):
    return ({"type": "function", "function": {"name": "now", **said, **fields}},)


def bound(name):
    return dialect(None if name == GENERIC else name)


@pytest.fixture(scope="module")
def compiler():
    compiler = GrammarCompiler(byte_tokenizer())
    yield compiler
    compiler.close()


@pytest.mark.parametrize("name", [*PARSERS, GENERIC])
@pytest.mark.parametrize("choice", ["required", NamedTool("now")], ids=["required", "named"])
def test_a_forced_call_has_exactly_an_empty_object_and_ends_there(compiler, name, choice):
    for said in NONE_SAID:
        fields = {"tools": tools(said), "tool_choice": choice, "parallel_tool_calls": False}
        grammar = compiler.compile(bound(name).build_expr(output_spec(**fields)))
        for seed in range(3):
            answer = walk(grammar.new_matcher(), random.Random(seed), 200)
            assert answer is not None
            assert parse(bound(name), answer, **fields).calls == (("now", "{}"),)


@pytest.mark.parametrize("name", PARSERS)
def test_a_strict_function_without_parameters_takes_none_where_the_model_may_choose(compiler, name):
    grammar = compiler.compile(bound(name).build_expr(output_spec(tools=tools({}, strict=True))))
    calls = [walk(grammar.new_matcher(), random.Random(seed), 300) for seed in range(10)]
    for result in (parse(bound(name), answer, tools=tools({})).calls for answer in calls if answer):
        assert all(arguments == "{}" for _, arguments in result)
    assert not accepts(grammar.new_matcher(), WRITERS[name]([("now", {"zone": "UTC"})]).rstrip())


@pytest.mark.parametrize("name", ["hermes", "deepseek_v31", "openai", GENERIC])
def test_an_object_that_declares_nothing_stays_any_object(compiler, name):
    fields = {"tools": tools({"parameters": {"type": "object"}}), "tool_choice": NamedTool("now")}
    grammar = compiler.compile(bound(name).build_expr(output_spec(**fields)))
    answers = [walk(grammar.new_matcher(), random.Random(seed)) for seed in range(20)]
    found = {arguments for answer in answers if answer for _, arguments in parse(bound(name), answer, **fields).calls}
    assert len(found) > 1
