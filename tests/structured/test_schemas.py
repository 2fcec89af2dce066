"""The values that a JSON schema allows, keyword by keyword, and the errors for what cannot be enforced."""

import json

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import JsonSchema, JsonWhitespace
from jaxserve.structured.lark_writer import write_grammar
from jaxserve.structured.resolve import resolve
from jaxserve.structured.schema_keywords import MAX_CHOICES
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import accepts, matcher_of

COMPACT = JsonWhitespace(is_compact=True)


def allows(schema, *values, **how):
    """Whether a schema allows each of some values, or texts of values."""
    matcher = matcher_of(JsonSchema(json.dumps(schema), COMPACT, **how))
    texts = [value if isinstance(value, str) else json.dumps(value, separators=(",", ":")) for value in values]
    return [accepts(matcher, text) for text in texts]


def refusal(schema, **asked):
    with pytest.raises(InvalidParameter) as caught:
        matcher_of(StructuredOutputs(json=schema if isinstance(schema, str) else json.dumps(schema), **asked))
    assert caught.value.param == "structured_outputs"
    return str(caught.value)


A = {"a": {"type": "integer"}}
B = {"b": {"type": "integer"}}


@pytest.mark.parametrize("schema", [{}, True, {"title": "anything", "x-vendor": {"not": 1}, "default": {"not": 1}}])
def test_an_empty_schema_allows_any_json(schema):
    assert allows(schema, 1, None, "[]", {"a": [1.5, "x"]}, '"text"', "{") == [True, True, True, True, True, False]


def test_a_bare_object_allows_any_object():
    assert allows({"type": "object"}, {}, {"a": {"b": [1]}}, "[]", "1") == [True, True, False, False]
    assert allows({}, {"a": 1}, "1", is_object=True) == [True, False]


def test_objects_that_declare_properties_are_closed():
    assert allows({"properties": A, "type": "object"}, {"a": 1}, {}, {"a": 1, "z": 2}, {"z": 2}) == [
        True,
        True,
        False,
        False,
    ]
    assert allows({"properties": {}, "type": "object"}, {}, {"z": 2}) == [True, False]
    open_one = {"properties": A, "type": "object", "additionalProperties": True}
    assert allows(open_one, {"a": 1, "z": 2}, {"z": 2}, {"a": "x"}, '{"a":1,"a":"x"}') == [True, True, False, False]
    typed = {"properties": A, "type": "object", "additionalProperties": {"type": "null"}}
    assert allows(typed, {"a": 1, "z": None}, {"z": 2}) == [True, False]


def test_a_key_may_not_hide_behind_escapes():
    """Otherwise an undeclared "\\u0061" would be an "a" to whoever reads it."""
    schema = {"properties": A | {"b/c": {"type": "null"}}, "additionalProperties": {"type": "string"}, "type": "object"}
    assert allows(schema, r'{"a":1,"\u0061":"x"}', r'{"b\/c":"x"}', {"a": 1, "z": "x"}) == [False, False, True]


def test_closed_means_even_objects_that_declare_nothing():
    asked = StructuredOutputs(json='{"type": "object"}', disable_additional_properties=True)
    matcher = matcher_of(asked)
    assert [accepts(matcher, text) for text in ("{}", '{"a": 1}')] == [True, False]


def test_properties_come_in_declared_order_and_required_ones_always():
    schema = {"type": "object", "properties": A | B, "required": ["b"]}
    assert allows(schema, {"a": 1, "b": 2}, {"b": 2}, {"b": 2, "a": 1}, {"a": 1}) == [True, True, False, False]


def test_required_keys_count_as_declared():
    assert allows({"type": "object", "required": ["x"]}, {"x": [1]}, {}, {"y": 1}) == [True, False, False]
    assert allows({"type": "object", "properties": A, "required": ["x"]}, {"x": 1}, {"a": 1}) == [True, False]


def test_keywords_in_data_are_data():
    schema = {
        "properties": {"not": {"enum": [{"contains": 1}]}, "if": True},
        "default": {"not": 1},
        "examples": [{"if": 1}],
    }
    assert allows(schema, {"not": {"contains": 1}, "if": 2}, {"not": 1}) == [True, False]


def test_all_of_is_merged():
    schema = {
        "type": "object",
        "allOf": [{"properties": A, "required": ["a"]}, {"properties": B}],
        "properties": {"c": True},
    }
    assert allows(schema, {"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}, {"b": 2}, {"a": 1, "z": 3}) == [
        True,
        True,
        False,
        False,
    ]
    both = {"allOf": [{"properties": A}, {"properties": {"a": {"minimum": 5}}, "additionalProperties": False}]}
    assert allows(both | {"type": "object"}, {"a": 5}, {"a": 4}) == [True, False]
    assert allows({"allOf": [{"pattern": "^a"}, {"pattern": "b$"}, {"maxLength": 3}]}, '"axb"', '"axxb"', '"xb"') == [
        True,
        False,
        False,
    ]


def test_any_of_beside_other_keywords_holds_with_them():
    schema = {"type": "object", "properties": A | B, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert allows(schema, {"a": 1}, {"b": 1}, {"a": 1, "b": 2}, {}) == [True, True, True, False]


def test_one_of_is_read_as_any_of():
    schema = {"oneOf": [{"type": "integer"}, {"minimum": 2}]}
    assert allows(schema, 1, 2, "2.5") == [True, True, True]


TREE = {
    "$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"}, "l": {"$ref": "#/$defs/node"}}}},
    "$ref": "#/$defs/node",
}


def test_references_may_recur():
    assert allows(TREE, {"v": 1, "l": {"v": 2, "l": {"l": {}}}}, {"l": {"v": "x"}}) == [True, False]
    assert allows({"type": ["array", "null"], "items": {"$ref": "#"}}, [[None], []], [1]) == [True, False]
    escaped = {"$defs": {"a/b ~c": {"type": "null"}}, "$ref": "#/$defs/a~1b%20~0c"}
    assert allows(escaped, None, 1) == [True, False]
    absolute = {"$id": "https://x.y/z", "properties": {"n": {"$ref": "https://x.y/z#/$defs/i"}}, "$defs": {"i": A["a"]}}
    assert allows(absolute, {"n": 1}, {"n": "x"}) == [True, False]


def test_references_have_neighbours_since_2019():
    schema = {"$ref": "#/definitions/i", "minimum": 5, "definitions": {"i": {"type": "integer"}}}
    assert allows(schema, 5, 4) == [True, False]
    assert allows(schema | {"$schema": "http://json-schema.org/draft-07/schema#"}, 5, 4) == [True, True]


def test_arrays():
    assert allows({"prefixItems": [A["a"]], "items": False, "type": "array"}, [1], [], [1, 2]) == [True, True, False]
    assert allows({"items": [A["a"]], "additionalItems": {"type": "null"}, "type": "array"}, [1, None], [1, 2]) == [
        True,
        False,
    ]
    assert allows({"items": A["a"], "minItems": 1, "maxItems": 2, "type": "array"}, [], [1], [1, 2], [1, 2, 3]) == [
        False,
        True,
        True,
        False,
    ]


def test_numbers_of_properties():
    three = {"type": "object", "properties": {"a": True, "b": True, "c": True}}
    texts = [{}, {"a": 1}, {"a": 1, "c": 2}, {"a": 1, "b": 2, "c": 3}]
    assert allows(three | {"minProperties": 2}, *texts) == [False, False, True, True]
    assert allows(three | {"maxProperties": 1}, *texts) == [True, True, False, False]
    assert allows(three | {"minProperties": 1, "maxProperties": 2}, *texts) == [False, True, True, False]
    assert allows({"type": "object", "minProperties": 1, "maxProperties": 2}, *texts) == [False, True, True, False]
    open_one = {"type": "object", "properties": A, "additionalProperties": True, "minProperties": 1}
    assert allows(open_one, {}, {"a": 1}, {"z": 1}, {"a": 1, "z": 2}) == [False, True, True, True]


def test_several_undeclared_keys_cannot_be_told_apart():
    assert "'minProperties'" in refusal({"type": "object", "minProperties": 2})
    many = {"properties": {name: True for name in "abcdefghijkl"}, "minProperties": 6}
    assert "'minProperties'" in refusal(many)


def test_names_of_properties():
    schema = {"type": "object", "propertyNames": {"enum": ["a-b", "c"]}, "additionalProperties": {"type": "integer"}}
    assert allows(schema, {"c": 1, "a-b": 2}, {"d": 1}, {"c": "x"}) == [True, False, False]
    schema = {"type": "object", "propertyNames": {"pattern": "^x"}, "properties": {"a": True, "xy": True}}
    assert allows(schema, {"xy": 1}, {"a": 1}) == [True, False]
    assert allows({"type": "object", "propertyNames": {"maxLength": 1}}, {"a": 1}, {"ab": 1}) == [True, False]
    assert "'propertyNames'" in refusal({"propertyNames": {"pattern": "^x", "maxLength": 3}})
    schema = {"type": "object", "patternProperties": {"^n_": {"type": "integer"}, "^s_": {"type": "string"}}}
    assert allows(schema, {"n_a": 1, "s_b": "x"}, {"n_a": "x"}, {"z": 1}) == [True, False, False]


def test_bounds_of_older_drafts():
    assert allows({"type": "integer", "minimum": 3, "exclusiveMinimum": True}, 3, 4) == [False, True]
    assert allows({"type": "integer", "minimum": 3, "exclusiveMinimum": False}, 3, 2) == [True, False]


def test_formats_of_numbers_are_bounds():
    assert allows({"type": "integer", "format": "int32"}, 2**31 - 1, 2**31, -(2**31) - 1) == [True, False, False]
    assert allows({"type": "integer", "format": "int64", "minimum": 3}, 3, 2) == [True, False]
    assert allows({"type": "number", "format": "double"}, "1.5e300") == [True]


def test_strings_are_json():
    schema = {"type": "string"}
    assert allows(schema, '"a\\n\\"\\\\\\u0001é😀"', '"a\nb"', '"a\tb"', '"\\ud83d"', '"\\x"') == [True] + [False] * 4


NOT_ENFORCED = {
    "not": {"type": "null"},
    "if": {},
    "uniqueItems": True,
    "contains": {},
    "dependentRequired": {"a": ["b"]},
    "dependentSchemas": {"a": {}},
    "dependencies": {"a": ["b"]},
    "unevaluatedItems": False,
    "unevaluatedProperties": False,
    "$dynamicRef": "#x",
    "$recursiveRef": "#",
    "multipleOf": 5,
    "$ref": "https://example.com/other.json",
    "pattern": "(?=a)b",
}


@pytest.mark.parametrize("keyword", NOT_ENFORCED)
def test_a_keyword_that_cannot_be_enforced_is_named_with_its_place(keyword):
    schema = {keyword: NOT_ENFORCED[keyword]} | ({"then": {}} if keyword == "if" else {})
    for whole, path in ((schema, "#"), ({"properties": {"p": {"items": schema}}}, "#/properties/p/items")):
        message = refusal(whole)
        assert f"'{keyword}'" in message and f"at {path} " in message


@pytest.mark.parametrize(
    "schema",
    [
        {"uniqueItems": False},
        {"uniqueItems": True, "maxItems": 1},
        {"not": False},
        {"if": {"type": "null"}},
        {"then": False},
        {"unevaluatedProperties": True},
        {"minContains": 3},
        {"dependentRequired": {}},
    ],
)
def test_a_keyword_that_says_nothing_may_stand(schema):
    assert allows(schema, 1, {"a": 1}) == [True, True]


def test_an_option_that_nothing_is_valid_under_is_left_out():
    assert allows({"anyOf": [{"not": {}}, False, {"type": "null"}]}, None, 1) == [True, False]
    assert allows({"properties": {"a": {"not": {}}, "b": True}, "type": "object"}, {"b": 1}, {"a": 1}) == [True, False]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("false", "no JSON value"),
        ('{"type": "object", "properties": {"a": false}, "required": ["a"]}', "no JSON value"),
        ('{"enum": ["a"], "type": "integer"}', "Unsatisfiable"),
        ('{"type": "string", "minLength": 5, "maxLength": 3}', "Unsatisfiable"),
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "no JSON value"),
        ('{"type": "object", "minProperties": 1, "maxProperties": 0}', "no JSON value"),
        ('{"allOf": [{"const": 1}, {"const": 2}]}', "no JSON value"),
        ("{", "not JSON"),
        ("3", "must be an object"),
        ('{"minimum": NaN}', "not JSON"),
        ('{"const": "\\ud800"}', "surrogate"),
        ('{"type": "objec"}', "'type' at # must be one of"),
        ('{"properties": []}', "'properties' at # must be an object"),
        ('{"properties": {"a": 1}}', "'properties' at # must be an object of schemas"),
        ('{"required": "a"}', "'required' at #"),
        ('{"minLength": -1}', "'minLength' at #"),
        ('{"minLength": 1.5}', "'minLength' at #"),
        ('{"enum": []}', "'enum' at #"),
        ('{"anyOf": []}', "'anyOf' at #"),
        ('{"$ref": "#/$defs/x"}', "points at no schema"),
        ('{"$ref": "#"}', "without end"),
        ('{"allOf": [{"$ref": "#"}]}', "without end"),
        ('{"anyOf": [{"$ref": "#"}, {"type": "null"}]}', "without end"),
        ('{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}', "without end"),
        ('{"type": "array", "items": {"$ref": "#"}, "minItems": 1}', "without end"),
    ],
)
def test_a_schema_that_says_nothing_sensible_is_refused(schema, reason):
    assert reason in refusal(schema)


def nested(levels):
    schema: dict = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


def test_schemas_are_limited_in_depth_and_size():
    assert allows(nested(63), [[[]]]) == [True]
    assert "deeper than 64" in refusal(nested(64))
    assert "deeper than 64" in refusal('{"items":' * 100_000)
    assert "larger than" in refusal(json.dumps({"title": "x" * (1 << 20)}))


SPACED = {"type": "object", "properties": {"a": {"type": "array", "items": A["a"]}}, "required": ["a"]}


def spaced(*texts, **how):
    matcher = matcher_of(StructuredOutputs(json=json.dumps(SPACED), **how))
    return [accepts(matcher, text) for text in texts]


def test_whitespace_is_allowed_but_not_without_end():
    pretty = json.dumps({"a": [1, 2]}, indent=4)
    texts = ('{"a":[1,2]}', '{"a": [1, 2]}', pretty, '{ "a" : [ 1 , 2 ] }', '{"a":     [1]}', '{"a":\n\n\n[1]}')
    assert spaced(*texts) == [True, True, True, True, False, False]
    assert spaced(*texts, disable_any_whitespace=True) == [True, False, False, False, False, False]
    assert spaced(*texts, whitespace_pattern="[ ]?") == [True, True, False, True, False, False]
    assert spaced(*texts, whitespace_pattern=r"\s*") == [True] * 6
    assert spaced(*texts, whitespace_pattern="") == [True, False, False, False, False, False]
    assert spaced(*texts, whitespace_pattern=" ", disable_any_whitespace=True)[1] is False


@pytest.mark.parametrize("pattern", ["(", "x*", ".", "\u00a0", "(?=a)"])
def test_a_whitespace_pattern_matches_whitespace(pattern):
    assert "whitespace_pattern" in refusal({}, whitespace_pattern=pattern) or "is refused" in refusal(
        {}, whitespace_pattern=pattern
    )


HUGE = 10**9


@pytest.mark.parametrize("count", [HUGE, 10**300, float(HUGE)])
@pytest.mark.parametrize(
    "keyword", ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"]
)
def test_an_absurd_count_is_refused_by_its_name(keyword, count):
    for schema, path in (
        ({keyword: count}, "#"),
        ({"properties": {"p": {"items": {keyword: count}}}}, "#/properties/p"),
    ):
        message = refusal(schema)
        assert f"'{keyword}' at {path}" in message and "is more than 1" in message and len(message) < 200


REPEATED = {"regex": "a{%s}", "grammar": 'start: "a"{%s}'}


@pytest.mark.parametrize("count", [HUGE, f"1,{HUGE}", f"{HUGE},", "9" * 5000])
@pytest.mark.parametrize("form", REPEATED)
def test_an_absurd_repetition_is_refused_before_any_work(form, count):
    with pytest.raises(InvalidParameter, match="times, which is more than 10") as caught:
        matcher_of(StructuredOutputs(**{form: REPEATED[form] % count}))
    assert "sys." not in str(caught.value)


@pytest.mark.parametrize("keyword", ["pattern", "patternProperties"])
def test_an_absurd_repetition_in_a_schema_is_refused_by_its_keyword(keyword):
    pattern = f"^a{{{HUGE}}}$"
    message = refusal({keyword: pattern if keyword == "pattern" else {pattern: {"type": "integer"}}})
    assert f"'{keyword}' at #" in message and "which is more than 100000" in message


def test_too_many_choices_are_refused_as_such():
    for choice, reason in ((("a",) * 20_001, "20001 choices"), (("x" * (5 << 20),) * 2, "together are longer than")):
        with pytest.raises(InvalidParameter, match=reason):
            matcher_of(StructuredOutputs(choice=choice))


ENUM_OF = {
    "schema": lambda enum: StructuredOutputs(json=json.dumps(enum)),
    "property": lambda enum: StructuredOutputs(json=json.dumps({"properties": {"p": {"anyOf": [enum]}}})),
    "tag": lambda enum: StructuredOutputs(
        structural_tag=json.dumps({"format": {"type": "json_schema", "json_schema": enum}})
    ),
}


@pytest.mark.parametrize("place", ENUM_OF)
def test_an_enum_has_as_many_values_as_there_may_be_choices(place):
    write_grammar(resolve(ENUM_OF[place]({"enum": list(range(MAX_CHOICES))}), {}), {})
    for values in (list(range(MAX_CHOICES + 1)), [1] * 200_000):
        with pytest.raises(InvalidParameter, match=f"'enum' at .* it has {len(values)} values, more than 20000"):
            write_grammar(resolve(ENUM_OF[place]({"enum": values}), {}), {})


@pytest.mark.parametrize("place", ["pattern", "patternProperties"])
def test_a_pattern_in_a_schema_is_no_longer_than_a_regex(place):
    for pattern in ("a" * (16 << 10), "a" * ((16 << 10) + 1), "a" * 900_000):
        keyword = {"pattern": pattern} if place == "pattern" else {place: {pattern: {"type": "null"}}}
        if len(pattern) == 16 << 10:
            write_grammar(resolve(StructuredOutputs(json=json.dumps({"properties": {"p": keyword}})), {}), {})
        else:
            assert "longer than 16384 bytes" in refusal({"properties": {"p": keyword}})


@pytest.mark.parametrize("digits", ["1000000000", "9" * 300])
def test_an_absurd_repeat_of_a_structural_tag_is_refused(digits):
    repeat = f'{{"type":"repeat","min":0,"max":{digits},"content":{{"type":"const_string","value":"a"}}}}'
    for sent, reason in (
        (repeat, "'repeat' repeats"),
        (repeat.replace('"min":0', f'"min":{"7" * 5000}'), "308 digits"),
    ):
        with pytest.raises(InvalidParameter, match=reason) as caught:
            matcher_of(StructuredOutputs(structural_tag=f'{{"format":{sent}}}'))
        assert "sys." not in str(caught.value) and len(str(caught.value)) < 300


def test_listed_values_stand_beside_exact_bounds_of_what_is_not_listed():
    schema = {"enum": [0.5, "a", 3], "items": {"minimum": 0.25}, "minimum": 0.25}
    assert allows(schema, '"a"', 0.5, 3, '"b"', "", 1) == [True, True, True, False, False, False]
    assert allows({"enum": ["a"], "items": {"minimum": 0.25}}, '"a"', "") == [True, False]
