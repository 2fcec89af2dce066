"""Null keywords in tool schemas count as absent."""

import json

import pytest

from jaxserve.config import EngineConfig
from jaxserve.prompt_input import ChatPrompt
from jaxserve.structured.grammar_expr import JsonSchema
from jaxserve.text.call_formats.format import collect_functions
from jaxserve.text.prompts import PromptRenderer
from jaxserve.text.tool_schemas import drop_null_keywords
from tests.structured.byte_tokenizer import accepts, matcher_of
from tests.text.tiny_tokenizers import byte_level_backend, make

NULLS = {"required": None, "properties": None}
INNER = {"type": "object", "properties": {"required": {"type": "string", "default": None, **NULLS}}, "required": None}


def tools(parameters):
    return [{"type": "function", "function": {"name": "f", "parameters": parameters}}]


@pytest.mark.parametrize(
    ("parameters", "same"),
    [
        ({"type": "object", **NULLS}, {"type": "object"}),
        (INNER, {"type": "object", "properties": {"required": {"type": "string", "default": None}}}),
        ({"$defs": {"properties": NULLS}, "allOf": [NULLS]}, {"$defs": {"properties": {}}, "allOf": [{}]}),
        ({"const": NULLS, "enum": [NULLS]}, {"const": NULLS, "enum": [NULLS]}),
        ({"type": None, "items": None}, {"type": None, "items": None}),
    ],
)
def test_null_required_and_null_properties_count_as_absent_at_every_level(parameters, same):
    assert drop_null_keywords(tools(parameters)) == tools(same)
    assert collect_functions(tools(parameters))["f"].parameters == same


def test_what_is_no_tool_is_left_alone():
    odd = [{"type": "function", "function": {"name": "f"}}, {"type": "x", "function": 3}, {}]
    assert drop_null_keywords(odd) == odd


def test_a_grammar_and_a_template_see_the_schema_without_them():
    [function] = collect_functions(tools({"type": "object", "properties": {"a": {"type": "object", **NULLS}}})).values()
    assert isinstance(function.arguments_expr, JsonSchema)
    assert accepts(matcher_of(function.arguments_expr), '{"a": {"b": 1}}')
    template = "{{ tools[0].function.parameters | tojson }}"
    prompts = PromptRenderer(EngineConfig(max_model_len=500, chat_template=template), make(byte_level_backend()))
    rendered = prompts.render_chat(
        ChatPrompt(messages=[{"role": "user", "content": "x"}], tools=tools({"type": "object", **NULLS}))
    )
    assert json.loads(rendered.text) == {"type": "object"}
    prompts.close()
