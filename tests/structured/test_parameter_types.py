"""The value that a text without quotes is parsed as under a schema."""

import json

import pytest

from jaxserve.structured.parameter_schema import parse_parameters_leniently

DEFINITIONS = {"n": {"type": "integer"}, "loop": {"$ref": "#/$defs/loop"}}


def read(parameters, name, text):
    arguments = parse_parameters_leniently(json.dumps(parameters))
    return json.loads(arguments.parameter_type(name).parse(text))


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, "12", "12"),
        ({}, "12", "12"),
        (None, "true", "true"),
        ({"type": "integer"}, "12", 12),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "integer"}, "3.5", "3.5"),
        ({"type": "integer"}, "many", "many"),
        ({"type": "number"}, "3", 3),
        ({"type": "number"}, "2.50", 2.5),
        ({"type": "number"}, "NaN", "NaN"),
        ({"type": "number"}, "1e999", float("inf")),  # which is JSON; what reads it decides
        ({"type": "number"}, "true", "true"),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "boolean"}, "1", "1"),
        ({"type": "null"}, "null", None),
        ({"type": "object"}, '{"a": [1]}', {"a": [1]}),
        ({"type": "object"}, "[1]", "[1]"),
        ({"type": "array"}, '["é"]', ["é"]),
        ({"type": "array"}, "[" * 100_000, "[" * 100_000),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "7", 7),
        ({"anyOf": [{"type": "boolean"}, {"type": "number"}]}, "1", 1),
        ({"anyOf": [{"type": "array"}, {"type": "string"}]}, "[x", "[x"),
        ({"oneOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}, "4", 4),
        ({"$ref": "#/$defs/loop"}, "4", "4"),
        ({"enum": [1, 2]}, "2", 2),
        ({"const": True}, "true", True),
        ({"type": "integer", "nullable": True}, "null", None),
        ({"properties": {}}, "{}", {}),
        ({"type": ["string", "integer"]}, "7.5", "7.5"),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 5}]}, "3", "3"),
        ({"anyOf": [{"type": "string"}, {"type": "integer", "exclusiveMinimum": 5}]}, "6", 6),
        ({"enum": ["1", 2, None, True]}, "1", "1"),
        ({"enum": ["1", 2, None, True]}, "2.0", 2),
        ({"enum": ["a", [1]]}, "[1]", [1]),
        ({"anyOf": [{"enum": ["null", "3"]}, {"type": "integer"}]}, "3", "3"),
        ({"allOf": [{"type": ["string", "integer"]}, {"type": "string"}]}, "3", "3"),
        ({"type": "string", "format": "date", "minLength": 2}, "null", "null"),
        ({"minimum": 3}, "4", 4),
        ({"type": "integer", "not": {"const": 3}}, "4", 4),
        ({"type": ["integer", "nonsense"], "pattern": 3}, "4", 4),
        ({"type": "array", "uniqueItems": True}, "[1]", [1]),
        ({"type": "integer", "enum": [9007199254740993]}, "9007199254740993", 9007199254740993),
        ({"type": "integer"}, "-9223372036854775808", -(2**63)),
    ],
)
def test_text_becomes_what_its_schema_asks_for_or_stays_text(schema, text, value):
    properties = {} if schema is None else {"a": schema}
    found = read({"type": "object", "properties": properties, "$defs": DEFINITIONS}, "a", text)
    assert (found, type(found)) == (value, type(value))


ROOTS = [
    {"$ref": "#/definitions/r", "definitions": {"r": {"properties": {"a": {"type": "integer"}}}}},
    {"allOf": [{"properties": {"b": {"type": "null"}}}, {"properties": {"a": {"type": "integer"}}}]},
    {"anyOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "null"}}}]},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "patternProperties": {"^a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
    {"properties": {"a": {"type": "integer"}, "b": {"type": "nonsense"}, "c": 3}},
    {"properties": {"a": {"type": "integer"}}, "required": "a", "dependentRequired": {"a": ["b"]}},
]


@pytest.mark.parametrize("root", ROOTS, ids=str)
def test_a_parameter_is_found_wherever_the_schema_says_something_of_it(root):
    assert read(root, "a", "3") == 3
    assert read(root, "a", "x") == "x"


@pytest.mark.parametrize("others", [{"additionalProperties": {"type": "integer"}}, {"patternProperties": {"^a": {}}}])
def test_no_schema_applies_under_a_name_that_a_pattern_forbids(others):
    patterns = {"a$": False, **others.get("patternProperties", {}), "^b": {"type": "integer"}}
    kind = {**others, "patternProperties": patterns}
    assert [read(kind, name, "3") for name in ("a", "ba", "b")] == ["3", "3", 3]
    kinds = [kind, {"additionalProperties": {"type": "string"}}]
    assert read({"anyOf": kinds}, "a", "null") == "null"


def test_where_kinds_of_objects_differ_in_a_parameter_its_type_alone_decides():
    kinds = [
        {"properties": {"kind": {"const": "x"}, "a": {"type": "integer", "minimum": 5}}},
        {"properties": {"kind": {"const": "y"}, "a": {"type": "string"}}},
    ]
    assert [read({"anyOf": kinds}, "a", text) for text in ("3", "b")] == [3, "b"]
    assert read({"anyOf": kinds}, "kind", "z") == "z"


def test_a_schema_whose_parts_multiply_is_refused():
    union = [{"anyOf": [{"minimum": place * 100 + low} for low in range(12)]} for place in range(3)]
    assert parse_parameters_leniently(json.dumps({"properties": {"a": {"type": "integer", "allOf": union}}})) is None
