"""The algebra of shapes: what each says, and that the way to a helper changes nothing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured.shapes import (
    Choice,
    Either,
    Lark,
    Literal,
    Optional,
    Parameters,
    Regex,
    Repeat,
    Schema,
    Sequence,
    Text,
    Token,
    Whitespace,
    from_json,
    to_json,
)
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.bytes_vocabulary import accepts, ids_of, matcher_of

OBJECT = Schema('{"type": "object"}', Whitespace(compact=True))
LEAVES = st.one_of(
    st.builds(Literal, st.sampled_from(["", "a", "ab", "<call>", 'quo"te\\', "é\n", "x<call>y"])),
    st.builds(Token, st.integers(0, 258)),
    st.builds(Choice, st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=3).map(tuple)),
    st.builds(Text, st.lists(st.sampled_from(["<", "</call>"]), max_size=2).map(tuple)),
    st.just(OBJECT),
    st.just(Regex("[0-9]+")),
    st.just(Lark('start: "l"')),
)


def joined(shape):
    some = st.lists(shape, min_size=1, max_size=3).map(tuple)
    repeats = st.builds(
        Repeat, shape, st.integers(0, 2), st.none() | st.integers(2, 3), st.none() | st.just(Literal(","))
    )
    return st.builds(Sequence, some) | st.builds(Either, some) | st.builds(Optional, shape) | repeats


SHAPES = st.recursive(LEAVES, joined, max_leaves=6)


@settings(deadline=None)
@given(SHAPES)
def test_the_way_through_json_changes_nothing(shape):
    assert from_json(json.loads(json.dumps(to_json(shape)))) == shape
    assert hash(shape) == hash(from_json(to_json(shape)))


@settings(deadline=None)
@given(SHAPES)
def test_every_shape_is_a_grammar_or_a_refusal_with_a_reason(shape):
    try:
        matcher = matcher_of(shape)
    except InvalidParameter as error:
        assert "free text must end in fixed text" in str(error)
    else:
        matcher.compute_bitmask()


def judged(shape, *texts):
    matcher = matcher_of(shape)
    return [accepts(matcher, ids_of(text)) for text in texts]


A, B, COMMA = Literal("a"), Literal("b"), Literal(",")


def test_joints():
    assert judged(Sequence((A, B)), "ab", "a", "") == [True, False, False]
    assert judged(Sequence(()), "", "a") == [True, False]
    assert judged(Either((A, B)), "a", "b", "ab") == [True, True, False]
    assert judged(Optional(A), "", "a", "aa") == [True, True, False]
    assert judged(Repeat(A), "", "aaa") == [True, True]
    assert judged(Repeat(A, 2, 3), "a", "aa", "aaa", "aaaa") == [False, True, True, False]
    assert judged(Repeat(A, 0, 0), "", "a") == [True, False]
    assert judged(Repeat(A, 1, None, COMMA), "", "a", "a,a,a", "a,", "aa") == [False, True, True, False, False]
    assert judged(Repeat(A, 0, 2, COMMA), "", "a", "a,a", "a,a,a") == [True, True, True, False]
    assert judged(Repeat(A, 2, 2, COMMA), "a", "a,a", "a,a,a") == [False, True, False]


def test_text_ends_before_the_first_of_its_markers():
    shape = Sequence((Text(("<a>", "<b>")), Either((Literal("<a>1"), Literal("<b>2")))))
    assert judged(shape, "x<a>1", "<b>2", "x < a<b>2") == [True, True, True]
    assert judged(shape, "x<a>2", "x<b>x<a>1", "x") == [False, False, False]


def test_text_may_end_where_what_follows_may_be_missing():
    shape = Sequence((Text(("<a>",)), Optional(Literal("<a>1"))))
    assert judged(shape, "", "x", "x<a>1", "x<a>") == [True, True, True, False]
    calls = Repeat(Sequence((Text(("<a>",)), Literal("<a>1"))))
    assert judged(Sequence((calls, Text(("<a>",)))), "", "x", "x<a>1y<a>1z", "x<a>") == [True, True, True, False]


def test_text_sees_what_follows_it_outside():
    shape = Sequence((Either((Text(("<a>",)), B)), Literal("<a>")))
    assert judged(shape, "x<a>", "b<a>", "<a>", "x") == [True, True, True, False]
    shape = Sequence((Optional(Sequence((A, Text(("<",))))), Literal("<")))
    assert judged(shape, "<", "axyz<", "x<") == [True, True, False]


def test_text_may_end_in_a_special_token():
    shape = Sequence((Text(("<call>",)), Literal("<call>"), OBJECT, Literal("</call>")))
    assert judged(shape, "hello <call>{}</call>", "<call>{}</call>", "hello", "<call>{}") == [True, True, False, False]
    shape = Sequence((Text(("\n<call>",)), Optional(Literal("\n<call>x"))))
    assert judged(shape, "a\nb", "a\n<call>x", "a<call>x") == [True, True, False]
    assert judged(Sequence((Text(), Token(257), A)), "x<call>a", "xa") == [True, False]


@pytest.mark.parametrize("sequel", [OBJECT, Regex("[0-9]"), Lark('start: "a"'), Repeat(OBJECT, 1)])
def test_text_before_no_fixed_text_is_refused(sequel):
    with pytest.raises(InvalidParameter, match="free text must end in fixed text"):
        matcher_of(Sequence((Text(), sequel)))


SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "unit": {"enum": ["C", "F"]},
        "code": {"type": "string", "pattern": "^[A-Z]{2}$"},
        "short": {"type": "string", "maxLength": 3},
        "list": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "maybe": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
        "one": {"anyOf": [{"enum": ["x", "y"]}, {"type": "null"}]},
    },
    "required": ["text"],
    "$defs": {"item": {"type": "object", "properties": {"n": {"$ref": "#/$defs/item"}}}},
}


def parameters(schema, **how):
    return Parameters(Schema(json.dumps(schema), Whitespace(compact=True)), "<p=", ">", "</p>", **how)


def test_parameters_are_text_or_json():
    first = '<p=text>a < b </p</p><p=count>3</p><p=unit>F</p><p=code>AB</p><p=list>[{},{"n":{}}]</p>'
    matcher = matcher_of(parameters(SCHEMA))
    for good in (first, f"{first}<p=maybe>null</p><p=one>null</p>", "<p=text></p>", "<p=text>x</p><p=one>y</p>"):
        assert accepts(matcher, good)
    assert accepts(matcher, "<p=text>\né</p><p=short>abc</p>")
    for bad in ("", "<p=count>3</p>", "<p=text>x", "<p=text>x</p><p=count>x</p>", "<p=text>x</p><p=code>A</p>"):
        assert not accepts(matcher, bad)
    for bad in ("<p=text>x</p><p=short>abcd</p>", "<p=text>x</p><p=unit>K</p>", "<p=text>x</p><p=z>1</p>"):
        assert not accepts(matcher, bad)


def test_parameters_may_say_what_is_json():
    shape = parameters(SCHEMA, after_name_json=" json>")
    assert judged(shape, "<p=text>x</p><p=count json>3</p>", "<p=text>x</p><p=count>3</p>") == [True, False]
    shape = parameters(SCHEMA, has_blanks=True)
    assert judged(shape, "<p=text>x</p>\n<p=count> 3\n</p>\n", "<p=text>x</p>a") == [True, False]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object"}, "declared properties"),
        ({"type": "object", "properties": {}, "additionalProperties": True}, "declared properties"),
        ({"type": "array"}, "no JSON value"),
        ({"properties": {"a": {"anyOf": [{"type": "string"}, {"minimum": 3}]}}}, "'anyOf' at #/properties/a"),
        ({"properties": {"a": {"type": ["string", "integer"], "minimum": 3}}}, "'minimum' at #/properties/a"),
        ({"properties": {"a": {"enum": ["x", 1]}}}, "'enum' at #/properties/a"),
    ],
)
def test_parameters_of_another_kind_are_refused(schema, reason):
    with pytest.raises(InvalidParameter, match=reason):
        matcher_of(parameters(schema))


def test_what_was_asked_for_may_be_a_part_of_a_shape():
    asked = StructuredOutputs(choice=("yes", "no"))
    shape = Either((Sequence((Literal("="), asked)), Optional(asked), Repeat(asked, 2, 2, asked)))
    assert from_json(json.loads(json.dumps(to_json(shape)))) == shape
    assert judged(shape, "=yes", "no", "yesnoyes", "", "=", "so") == [True, True, True, True, False, False]


def test_what_was_asked_for_is_seen_by_the_text_before_it():
    shape = Sequence((Text(), StructuredOutputs(choice=("END",))))
    assert judged(shape, "some text END", "END", "some") == [True, True, False]
