"""Grammar expressions: the texts that each allows, and that conversion to JSON and back changes nothing."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import (
    FreeText,
    JsonSchema,
    JsonWhitespace,
    KeywordArguments,
    LarkGrammar,
    OptionalExpr,
    OrExpr,
    Regex,
    RepeatExpr,
    SequenceExpr,
    TaggedArguments,
    TextChoice,
    TextLiteral,
    TokenLiteral,
    from_json,
    to_json,
)
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import accepts, ids_of, matcher_of

OBJECT = JsonSchema('{"type": "object"}', JsonWhitespace(is_compact=True))
LEAVES = st.one_of(
    st.builds(TextLiteral, st.sampled_from(["", "a", "ab", "<call>", 'quo"te\\', "é\n", "x<call>y"])),
    st.builds(TokenLiteral, st.integers(0, 258)),
    st.builds(TextChoice, st.lists(st.sampled_from(["", "a", "b"]), min_size=1, max_size=3).map(tuple)),
    st.builds(FreeText, st.lists(st.sampled_from(["<", "</call>"]), max_size=2).map(tuple)),
    st.just(OBJECT),
    st.just(Regex("[0-9]+")),
    st.just(LarkGrammar('start: "l"')),
)


def joined(expr):
    items = st.lists(expr, min_size=1, max_size=3).map(tuple)
    repeats = st.builds(
        RepeatExpr, expr, st.integers(0, 2), st.none() | st.integers(2, 3), st.none() | st.just(TextLiteral(","))
    )
    return st.builds(SequenceExpr, items) | st.builds(OrExpr, items) | st.builds(OptionalExpr, expr) | repeats


SHAPES = st.recursive(LEAVES, joined, max_leaves=6)


@settings(deadline=None)
@given(SHAPES)
def test_conversion_to_json_and_back_changes_nothing(expr):
    assert from_json(json.loads(json.dumps(to_json(expr)))) == expr
    assert hash(expr) == hash(from_json(to_json(expr)))


@settings(deadline=None)
@given(SHAPES)
def test_every_expression_is_a_grammar_or_a_refusal_with_a_reason(expr):
    try:
        matcher = matcher_of(expr)
    except InvalidParameter as error:
        assert "free text must end in fixed text" in str(error)
    else:
        matcher.compute_bitmask()


def allows(expr, *texts):
    matcher = matcher_of(expr)
    return [accepts(matcher, ids_of(text)) for text in texts]


A, B, COMMA = TextLiteral("a"), TextLiteral("b"), TextLiteral(",")


def test_texts_may_be_split_anywhere_between_two_items():
    assert allows(SequenceExpr((A, B)), "ab", "a", "") == [True, False, False]
    assert allows(SequenceExpr(()), "", "a") == [True, False]
    assert allows(OrExpr((A, B)), "a", "b", "ab") == [True, True, False]
    assert allows(OptionalExpr(A), "", "a", "aa") == [True, True, False]
    assert allows(RepeatExpr(A), "", "aaa") == [True, True]
    assert allows(RepeatExpr(A, 2, 3), "a", "aa", "aaa", "aaaa") == [False, True, True, False]
    assert allows(RepeatExpr(A, 0, 0), "", "a") == [True, False]
    assert allows(RepeatExpr(A, 1, None, COMMA), "", "a", "a,a,a", "a,", "aa") == [False, True, True, False, False]
    assert allows(RepeatExpr(A, 0, 2, COMMA), "", "a", "a,a", "a,a,a") == [True, True, True, False]
    assert allows(RepeatExpr(A, 2, 2, COMMA), "a", "a,a", "a,a,a") == [False, True, False]


def test_text_ends_before_the_first_of_its_markers():
    expr = SequenceExpr((FreeText(("<a>", "<b>")), OrExpr((TextLiteral("<a>1"), TextLiteral("<b>2")))))
    assert allows(expr, "x<a>1", "<b>2", "x < a<b>2") == [True, True, True]
    assert allows(expr, "x<a>2", "x<b>x<a>1", "x") == [False, False, False]


def test_text_may_end_where_what_follows_may_be_missing():
    expr = SequenceExpr((FreeText(("<a>",)), OptionalExpr(TextLiteral("<a>1"))))
    assert allows(expr, "", "x", "x<a>1", "x<a>") == [True, True, True, False]
    calls = RepeatExpr(SequenceExpr((FreeText(("<a>",)), TextLiteral("<a>1"))))
    assert allows(SequenceExpr((calls, FreeText(("<a>",)))), "", "x", "x<a>1y<a>1z", "x<a>") == [
        True,
        True,
        True,
        False,
    ]


def test_free_text_knows_what_follows_the_option_around_it():
    expr = SequenceExpr((OrExpr((FreeText(("<a>",)), B)), TextLiteral("<a>")))
    assert allows(expr, "x<a>", "b<a>", "<a>", "x") == [True, True, True, False]
    expr = SequenceExpr((OptionalExpr(SequenceExpr((A, FreeText(("<",))))), TextLiteral("<")))
    assert allows(expr, "<", "axyz<", "x<") == [True, True, False]


def test_text_may_end_in_a_special_token():
    expr = SequenceExpr((FreeText(("<call>",)), TextLiteral("<call>"), OBJECT, TextLiteral("</call>")))
    assert allows(expr, "hello <call>{}</call>", "<call>{}</call>", "hello", "<call>{}") == [True, True, False, False]
    expr = SequenceExpr((FreeText(("\n<call>",)), OptionalExpr(TextLiteral("\n<call>x"))))
    assert allows(expr, "a\nb", "a\n<call>x", "a<call>x") == [True, True, False]
    assert allows(SequenceExpr((FreeText(), TokenLiteral(257), A)), "x<call>a", "xa") == [True, False]


@pytest.mark.parametrize("sequel", [OBJECT, Regex("[0-9]"), LarkGrammar('start: "a"'), RepeatExpr(OBJECT, 1)])
def test_text_before_no_fixed_text_is_refused(sequel):
    with pytest.raises(InvalidParameter, match="free text must end in fixed text"):
        matcher_of(SequenceExpr((FreeText(), sequel)))


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
    return TaggedArguments(JsonSchema(json.dumps(schema), JsonWhitespace(is_compact=True)), "<p=", ">", "</p>", **how)


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
    expr = parameters(SCHEMA, after_name_json=" json>")
    assert allows(expr, "<p=text>x</p><p=count json>3</p>", "<p=text>x</p><p=count>3</p>") == [True, False]
    expr = parameters(SCHEMA, has_blanks=True)
    assert allows(expr, "<p=text>x</p>\n<p=count> 3\n</p>\n", "<p=text>x</p>a") == [True, False]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "array"}, "no JSON value"),
        ({"enum": [{"a": 1}]}, "'enum' at #"),
        ({"properties": {"a": {"type": "string", "pattern": "a(b$|c)"}}}, "'pattern' at #/properties/a"),
        ({"properties": {"a>": {"type": "string"}}}, "'properties' at #.*'a>'"),
        ({"properties": {"a": {"const": "x</p>"}}, "required": ["a"]}, "#/properties/a"),
        ({"properties": {"a": {"type": "string", "maxLength": 10**9}}}, "'maxLength' at #/properties/a"),
        ({"properties": {"a": {"not": {"const": "x"}}}}, "'not' at #/properties/a"),
    ],
)
def test_parameters_that_cannot_be_enforced_are_refused_by_name(schema, reason):
    with pytest.raises(InvalidParameter, match=reason):
        matcher_of(parameters(schema))


MIXED = {
    "s": {"type": ["string", "integer", "null"]},
    "n": {"anyOf": [{"type": "string", "pattern": "px$"}, {"type": "integer", "minimum": 5}]},
    "e": {"enum": ["1", 2, None]},
    "j": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "array", "items": {"type": "integer"}}]},
}
TEXTS = {
    "s": (["", "a b", "3", "null", "3.5"], []),
    "n": (["7", "7px", "px"], ["3", "7pt", "null"]),
    "e": (["1", "2", "null"], ["3", "", "nul"]),
    "j": (["abc", "[1,2]", ""], ["abcd", '["a"]', "[1"]),
}


@pytest.mark.parametrize("name", MIXED)
def test_parameters_may_be_text_or_something_else(name):
    matcher = matcher_of(parameters({"properties": {name: MIXED[name]}, "required": [name]}))
    good, bad = TEXTS[name]
    assert [text for text in good if not accepts(matcher, f"<p={name}>{text}</p>")] == []
    assert [text for text in bad if accepts(matcher, f"<p={name}>{text}</p>")] == []


def test_parameters_that_are_not_declared_come_last():
    whole = {"properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}, "maxProperties": 2}
    expr = parameters(whole)
    good = ["", "<p=a>1</p>", "<p=a>1</p><p=x>true</p>", "<p=x>true</p><p=y>false</p>"]
    bad = ["<p=x>1</p>", "<p=x>true</p><p=a>1</p>", "<p=a>1</p><p=x>true</p><p=y>true</p>", "<p=>true</p>"]
    assert allows(expr, *good, *bad) == [True] * len(good) + [False] * len(bad)


FORMATTED = {
    "uuid": ("123e4567-e89b-12d3-a456-426614174000", "123e4567"),
    "ipv4": ("127.0.0.1", "256.0.0.1"),
    "ipv6": ("::ffff:1.2.3.4", "1::2::3"),
    "email": ("a.b@c.de", "a@"),
    "date": ("2024-02-29", "2023-02-29"),
    "duration": ("P1DT2H", "P"),
    "hostname": ("a-b.c", "-a"),
    "uri": ("https://x.y/z?q#f", "//x"),
}


@pytest.mark.parametrize("name", FORMATTED)
def test_formats_hold_without_quotes(name):
    expr = parameters({"properties": {"a": {"type": "string", "format": name}}, "required": ["a"]})
    assert allows(expr, *(f"<p=a>{text}</p>" for text in FORMATTED[name])) == [True, False]


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("b", ["abc", "b"], ["ac"]),
        ("^a|b$", ["ax", "xb"], ["xax"]),
        ("^(?:a|b)$", ["a", "b"], ["ab"]),
        ("(^a|b$)", ["ax", "xb"], ["xax"]),
        (r"^a\$", ["a$"], ["a"]),
        ("^[$^|]$", ["|", "$"], ["a"]),
    ],
)
def test_patterns_are_searched_for_without_quotes(pattern, good, bad):
    expr = parameters({"properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]})
    assert allows(expr, *(f"<p=a>{text}</p>" for text in good + bad)) == [True] * len(good) + [False] * len(bad)


LITERALS = {
    "properties": {
        "n": {"type": "integer", "minimum": 3},
        "list": {
            "type": "array",
            "prefixItems": [{"type": "boolean"}],
            "items": {"$ref": "#/$defs/item"},
            "maxItems": 3,
        },
        "item": {"$ref": "#/$defs/item"},
        "e": {"enum": ["a", 1, {"b": "c"}]},
    },
    "$defs": {
        "item": {
            "type": "object",
            "properties": {
                "s": {"type": "string", "pattern": "^x"},
                "in": {"$ref": "#/$defs/item"},
                "a b": {"type": "null"},
            },
            "required": ["s"],
        }
    },
}


def test_literals_may_have_quotes_of_their_own():
    expr = KeywordArguments(JsonSchema(json.dumps(LITERALS)), ":", ",", "''", "[a-z]+")
    good = [
        "",
        "n:3",
        "n:4,item:{s:''x{''}",
        "list:[]",
        "list:[true,{s:''x''},{s:''x'',in:{s:''x''}}],e:{b:''c''}",
        "e:1",
    ]
    good += ["e:''a''", "item:{s:''x'',''a b'':null}"]
    bad = ["n:2", "e:''b''", "item:{}", "item:{s:''y''}", "list:[1]", "item:{s:''x''},n:3", "n:3,", ",n:3", "z:1"]
    assert allows(expr, *good, *bad) == [True] * len(good) + [False] * len(bad)
    expr = KeywordArguments(JsonSchema(json.dumps(LITERALS)), "=", ", ", None, "[a-z]+")
    assert allows(expr, 'item={"s": "x"}, e="a"', 'item={"s": "y"}', 'e="b"') == [True, False, False]


def test_structured_outputs_may_be_a_part_of_an_expression():
    asked = StructuredOutputs(choice=("yes", "no"))
    expr = OrExpr((SequenceExpr((TextLiteral("="), asked)), OptionalExpr(asked), RepeatExpr(asked, 2, 2, asked)))
    assert from_json(json.loads(json.dumps(to_json(expr)))) == expr
    assert allows(expr, "=yes", "no", "yesnoyes", "", "=", "so") == [True, True, True, True, False, False]


def test_free_text_before_structured_outputs_knows_how_they_begin():
    expr = SequenceExpr((FreeText(), StructuredOutputs(choice=("END",))))
    assert allows(expr, "some text END", "END", "some") == [True, True, False]
