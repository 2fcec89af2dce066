"""Random outputs under a schema's masks are valid under the schema, by the package jsonschema."""

import json

import jsonschema
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from tests.structured.random_walks import matcher_of, walk

NAMES = st.sampled_from(["a", "b", "ab", "é", "a b", "/"])
PATTERNS = st.sampled_from(
    ["^a", "b$", "^[a-c]+$", "[0-9]", "^.{2}$", "", "a|b", r"\d+\w", r"^\S+$", "^(ab)*$", r'^[^"\\]*$']
)
FORMATS = ["email", "date", "time", "date-time", "duration", "ipv4", "ipv6", "hostname", "uuid", "uri", "uri-reference"]
FORMATS += ["uri-template", "json-pointer", "relative-json-pointer"]
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]
COUNTS = st.integers(0, 3)
NUMBERS = st.sampled_from([-3, 0, 1, 2.5, 7, -0.125, 1e-3, 99.5, 12345678.90625, 2**53 + 1, -(2**60), 1e26])
SCALARS = st.none() | st.booleans() | st.integers(-5, 20) | st.sampled_from([0.5, 1.0, 1e10, "", "a", "ab", 'é"\n'])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2))

PLAIN = {
    "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "const": VALUES,
    "required": st.lists(NAMES, max_size=2, unique=True),
    "minProperties": COUNTS,
    "maxProperties": COUNTS,
    "propertyNames": st.sampled_from([{"pattern": "^a"}, {"enum": ["a", "b"]}, {"maxLength": 2}, True, False]),
    "minItems": COUNTS,
    "maxItems": COUNTS,
    "minLength": COUNTS,
    "maxLength": st.integers(0, 5),
    "pattern": PATTERNS,
    "format": st.sampled_from(FORMATS),
    "minimum": NUMBERS,
    "maximum": NUMBERS,
    "exclusiveMinimum": NUMBERS,
    "exclusiveMaximum": NUMBERS,
    "$ref": st.sampled_from(["#/$defs/x", "#/$defs/y"]),
}


def containing(schema):
    """Schemas that hold others. `oneOf` has one option: with more it is read as `anyOf`, which is not what is asked."""
    some = st.lists(schema, min_size=1, max_size=3)
    inner = {
        "properties": st.dictionaries(NAMES, schema, max_size=3),
        "additionalProperties": schema,
        "patternProperties": st.dictionaries(PATTERNS, schema, min_size=1, max_size=2),
        "items": schema,
        "prefixItems": some,
        "anyOf": some,
        "oneOf": st.lists(schema, min_size=1, max_size=1),
        "allOf": some,
    }
    return some_of(PLAIN | inner)


def some_of(keywords):
    """Schemas of a few of these keywords."""
    pairs = st.one_of(*(st.tuples(st.just(keyword), value) for keyword, value in keywords.items()))
    return st.lists(pairs, max_size=4).map(dict)


SCHEMAS = st.recursive(st.booleans() | some_of(PLAIN), containing, max_leaves=6)
CHECKED = jsonschema.Draft202012Validator.FORMAT_CHECKER


def invalid_walks(schema, num_walks):
    """(what went wrong, how many walks came to an end). None for a schema that is refused."""
    try:
        matcher = matcher_of(json.dumps(schema))
    except InvalidParameter:
        return None
    validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKED)
    texts = [text for seed in range(num_walks) if (text := walk(matcher, seed)) is not None]
    return [text for text in texts if not validator.is_valid(json.loads(text))], len(texts)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS.filter(lambda schema: isinstance(schema, dict)), SCHEMAS, SCHEMAS)
def test_any_answer_is_valid(schema, x, y):
    found = invalid_walks(schema | {"$defs": {"x": x, "y": y}}, 3)
    assume(found is not None)
    assert found is not None and found[0] == []


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mail": {"type": "string", "format": "email"},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 3},
        "home": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
    },
    "required": ["name", "age", "home"],
    "$defs": {
        "place": {
            "type": "object",
            "properties": {
                "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
                "near": {"$ref": "#/$defs/place"},
            },
            "required": ["code"],
        }
    },
}
MAP = {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}, "maxProperties": 3}
OVERLAID = {
    "allOf": [
        {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]},
        {
            "anyOf": [
                {"properties": {"n": {"type": "integer"}}, "required": ["n"]},
                {"properties": {"s": {"type": "string"}}},
            ]
        },
    ]
}
COUNTED = {
    "type": "object",
    "properties": {"a": {}, "b": {"type": "null"}, "c": {}},
    "minProperties": 2,
    "maxProperties": 2,
}


@pytest.mark.parametrize("schema", [PERSON, MAP, OVERLAID, COUNTED], ids=["person", "map", "overlaid", "counted"])
def test_answers_to_common_schemas_are_valid_and_end(schema):
    found = invalid_walks(schema, 60)
    assert found is not None
    assert found[0] == [] and found[1] >= 30
