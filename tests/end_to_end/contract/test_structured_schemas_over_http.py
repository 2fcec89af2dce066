"""Every keyword of JSON Schema is enforced, ignored because it only describes, or refused by name."""

import json

import pytest

from tests.end_to_end.contract.checked_replies import BOLD, checked_document, checked_error, checked_text

pytestmark = pytest.mark.assets


def properties(required=None, more=None, **schemas):
    schema = {"type": "object", "properties": schemas, "required": list(schemas) if required is None else required}
    return schema | (more or {})


SHORT = {"type": "string", "maxLength": 4}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
PAIR = {"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 3}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"v": DIGIT, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["v"],
        }
    },
}
FORMATS = """
    email date time date-time duration ipv4 ipv6 hostname uuid uri uri-reference uri-template json-pointer
    relative-json-pointer
"""
ENFORCED = {
    "type": {"type": "boolean"},
    "types": {"type": ["boolean", "null"]},
    "enum": {"enum": ["a", 1, None, {"b": [2]}, "\u00e9"]},
    "const": {"const": {"a": [1, "x"]}},
    "properties": properties(a=DIGIT, b=SHORT),
    "optional": properties(required=["b"], a=DIGIT, b=SHORT),
    "additionalProperties": properties(a=DIGIT, more={"additionalProperties": False}),
    "items": {"type": "array", "items": DIGIT, "maxItems": 3},
    "prefixItems": {"type": "array", "prefixItems": [DIGIT, {"const": "x"}], "items": False, "minItems": 2},
    "minItems": PAIR,
    "minLength": {"type": "string", "minLength": 3, "maxLength": 5},
    "pattern": {"type": "string", "pattern": "^[a-c]{2,3}$"},
    "minimum": {"type": "integer", "minimum": -5, "maximum": 17},
    "exclusiveMinimum": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 6},
    "anyOf": {"anyOf": [{"const": "x"}, PAIR]},
    "oneOf": {"oneOf": [{"const": "x"}, {"const": "y"}]},
    "allOf": {"allOf": [properties(a=DIGIT)]},
    "allOf merged": {"allOf": [properties(a=DIGIT), properties(b={"type": "boolean"})]},
    "$ref": properties(a={"$ref": "#/$defs/d"}, more={"$defs": {"d": DIGIT}}),
    "definitions": properties(a={"$ref": "#/definitions/d"}, more={"definitions": {"d": DIGIT}}),
    "minProperties": {
        "type": "object",
        "additionalProperties": DIGIT,
        "propertyNames": {"pattern": "^[a-c]$"},
        "minProperties": 1,
        "maxProperties": 2,
    },
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^[xy]$": DIGIT},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "annotations": {
        **properties(a={**DIGIT, "title": "t", "description": "d", "default": 7, "examples": [3], "deprecated": True}),
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://example.com/x",
        "$comment": "c",
        "readOnly": True,
    },
}


@pytest.mark.parametrize("keyword", ENFORCED)
def test_what_is_enforced(ask, keyword):
    for seed in range(2):
        checked_document(ask, ENFORCED[keyword], seed=seed, max_tokens=150, **BOLD)


def test_a_schema_may_call_itself(ask):
    said = ask.choice(structured_outputs={"json": TREE}, max_tokens=200, temperature=0.01)
    if said["finish_reason"] == "stop":
        assert "v" in json.loads(said["message"]["content"])


@pytest.mark.parametrize("form", FORMATS.split())
def test_a_known_format_is_enforced(ask, form):
    said = ask.choice(structured_outputs={"json": {"type": "string", "format": form}}, max_tokens=150)
    if said["finish_reason"] == "stop":
        assert isinstance(json.loads(said["message"]["content"]), str)
    if form in ("date", "ipv4", "uuid"):
        checked_document(ask, {"type": "string", "format": form}, max_tokens=150, **BOLD)


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({**PAIR, "uniqueItems": True}, "uniqueItems"),
        ({**PAIR, "contains": {"const": 3}}, "contains"),
        ({"type": "integer", "multipleOf": 5}, "multipleOf"),
        ({"not": {"type": "string"}}, "not"),
        ({"if": {"type": "string"}, "then": SHORT}, "if"),
        (properties(a=DIGIT, more={"dependentRequired": {"a": ["b"]}}), "dependentRequired"),
        (properties(a=DIGIT, more={"unevaluatedProperties": False}), "unevaluatedProperties"),
        ({**PAIR, "unevaluatedItems": False}, "unevaluatedItems"),
        ({"$ref": "https://example.com/schema.json"}, "$ref"),
        (properties(a={"anyOf": [{"items": {"not": {"type": "string"}}}]}), "not"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_enforced_is_named(ask, schema, keyword):
    error = checked_error(ask, structured_outputs={"json": schema})
    assert error["param"] == "structured_outputs" and keyword in error["message"]
    wrapped = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    error = checked_error(ask, response_format=wrapped)
    assert error["param"] == "response_format" and keyword in error["message"]


def test_a_format_that_nobody_knows_is_an_annotation_and_named(ask):
    schema = properties(code={"type": "string", "format": "barcode", "maxLength": 3})
    reply = ask.ask(structured_outputs={"json": schema}, max_tokens=20)
    assert (reply.status_code, reply.headers["x-jaxserve-unenforced"]) == (200, "barcode")


def test_keys_come_in_declared_order(ask):
    schema = properties(z=DIGIT, a={"type": "boolean"}, m=DIGIT)
    assert list(checked_document(ask, schema, **BOLD)) == ["z", "a", "m"]


def test_other_keys_come_only_where_the_schema_speaks_of_them(ask):
    silent = properties(required=[], a=DIGIT)
    for seed in range(4):
        assert set(checked_document(ask, silent, seed=seed, **BOLD)) <= {"a"}


def test_letters_of_the_world_stand_as_they_are(ask):
    schema = {"const": "na\u00efve \u4f60\u597d \U0001f98a"}
    assert checked_text(ask, structured_outputs={"json": schema}).strip() == json.dumps(
        schema["const"], ensure_ascii=False
    )
