"""Optional properties that may come next are counted before generation: no output exceeds the parser's limits."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLParserLimits

from jaxserve.errors import InvalidParameter
from jaxserve.structured.branching import BranchingFactor
from jaxserve.structured.grammar_expr import JsonSchema
from jaxserve.structured.sandboxed_compile import write_valid_grammar
from jaxserve.structured.schema_merge import parse_schema
from tests.structured.random_walks import VOCABULARY, walk

ITEMS_OF_ONE = 4  # that llguidance follows for each property that may come next
ITEMS_BESIDE = 40


def optional(prefix, num, value=None, **leading):
    properties = leading | {f"{prefix}{index}": value or {"type": "integer"} for index in range(num)}
    return {"type": "object", "properties": properties, "required": list(leading)}


def width(schema):
    merger = parse_schema(JsonSchema(json.dumps(schema)))
    return BranchingFactor(merger.merge_document(), merger.definitions).count


def union(*options):
    return {"anyOf": list(options)}


TREE = {"l": {"$ref": "#/$defs/n"}, "r": {"$ref": "#/$defs/n"}, "v": {"type": "integer"}}
NODES = {"$defs": {"n": union({"type": "null"}, optional("a", 0, **TREE) | {"required": []})}, "$ref": "#/$defs/n"}
NESTED = {"type": "object", "properties": {"u": {"oneOf": [optional(f"{i}_", 50) for i in range(5)]}}}


@pytest.mark.parametrize(
    ("schema", "count"),
    [
        ({}, 0),
        (optional("a", 10), 10),
        (optional("a", 10) | {"additionalProperties": True}, 11),
        (optional("a", 10) | {"required": ["a4"]}, 5),
        (union(*(optional(f"{name}_", 20) for name in "abc")), 60),
        (union(*(optional("a", 20, {"minimum": least, "type": "integer"}) for least in range(3))), 60),
        (union(*(optional("a", 20, kind={"const": kind}) for kind in "abc")), 20),
        (union(*(optional("a", 20, id={"type": "integer"}, kind={"const": kind}) for kind in "abc")), 20),
        (union(optional("a", 20, kind={"enum": ["a", "b"]}), optional("a", 20, kind={"enum": ["b", "c"]})), 40),
        (union(*(optional(f"{name}_", 2, optional("b", 20)) for name in "abc")), 20),
        (union(*(optional("a", 2, optional(name, 20)) for name in "abc")), 60),
        ({"type": "array", "items": union(optional("a", 20), optional("b", 20), {"type": "array"})}, 40),
        (
            {"$defs": {"n": union({"type": "null"}, optional("a", 0, **TREE) | {"required": []})}, "$ref": "#/$defs/n"},
            3,
        ),
    ],
)
def test_properties_that_may_come_next_are_counted(schema, count):
    assert width(schema) == count


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (union(*(optional(f"{name}_", 100) for name in "abc")), "'anyOf' at #"),
        (NESTED, "'oneOf' at #/properties/u"),
        (optional("a", 241), "'properties' at #"),
    ],
)
def test_a_place_that_is_too_wide_is_named_before_the_answer(schema, place):
    with pytest.raises(InvalidParameter) as caught:
        write_valid_grammar(JsonSchema(json.dumps(schema)), {}, "response_format")
    assert caught.value.param == "response_format" and f"{place} cannot be enforced" in str(caught.value)


values = st.sampled_from([{"type": "integer"}, {"type": "number", "exclusiveMinimum": 0}, {"const": 1}, {"const": 2}])
names = st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8)
objects = st.deferred(
    lambda: st.builds(
        lambda members, required: {
            "type": "object",
            "properties": members,
            "required": [name for name in members if name in required],
        },
        st.dictionaries(st.sampled_from("abcdefgh"), values | objects | unions, max_size=8),
        names,
    )
)
unions = st.deferred(lambda: st.lists(objects | st.builds(lambda item: {"type": "array", "items": item}, objects),
                                      min_size=1, max_size=4).map(lambda options: {"anyOf": options}))  # fmt: skip


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(unions)
def test_no_answer_needs_more_than_was_counted(schema):
    text = write_valid_grammar(JsonSchema(json.dumps(schema)), {}, "schema")
    limits = LLParserLimits(max_items_in_row=ITEMS_OF_ONE * width(schema) + ITEMS_BESIDE, verbose_errors=False)
    matcher = LLMatcher(VOCABULARY.get_ll_tokenizer(), text, log_level=0, limits=limits)
    assert not matcher.is_error(), matcher.get_error()
    for seed in range(3):
        walk(matcher, seed, max_steps=120)
