"""Structural tags: the texts that they allow, and the tags that are refused."""

import json

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import accepts, ids_of, matcher_of

NUMBER = {"type": "json_schema", "json_schema": {"type": "object", "properties": {"n": {"type": "integer"}}}}
ADD = {"type": "tag", "begin": "<f=add>", "content": NUMBER, "end": "</f>"}
SAY = {"type": "tag", "begin": "<f=say>", "content": {"type": "regex", "pattern": "[a-z]+"}, "end": "</f>"}
TRIGGERED = {"type": "triggered_tags", "triggers": ["<f="], "tags": [ADD, SAY]}


def text(value):
    return {"type": "const_string", "value": value}


def tag(begin, content, end):
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def tagged(format):
    whole = {"type": "structural_tag", "format": format}
    return StructuredOutputs(structural_tag=json.dumps(whole), disable_any_whitespace=True)


FORMATS = {
    "const_string": (text("ab"), ["ab"], ["", "a", "abc"]),
    "json_schema": (NUMBER, ['{"n":3}', "{}"], ["", '{"n":"x"}', '{"m":1}']),
    "json_schema_true": ({"type": "json_schema", "json_schema": True}, ["1", '{"a":[]}'], ["", "x"]),
    "grammar": ({"type": "grammar", "grammar": 'root ::= "yes" | "no"'}, ["yes", "no"], ["", "maybe"]),
    "lark": ({"type": "grammar", "grammar": 'start: "yes" | "no"'}, ["yes", "no"], ["", "maybe"]),
    "regex": ({"type": "regex", "pattern": "a+"}, ["a", "aaa"], ["", "b"]),
    "any_text": ({"type": "any_text"}, ["", "anything\n<f=", "é"], []),
    "any_text_excludes": (
        {"type": "any_text", "excludes": ["no", "never"]},
        ["", "n", "neve o"],
        ["no", "it is never"],
    ),
    "sequence": ({"type": "sequence", "elements": [text("a"), NUMBER, text("b")]}, ["a{}b"], ["a", "ab", "{}"]),
    "or": ({"type": "or", "elements": [text("a"), text("b")]}, ["a", "b"], ["", "ab"]),
    "optional": ({"type": "optional", "content": text("a")}, ["", "a"], ["aa"]),
    "plus": ({"type": "plus", "content": text("a")}, ["a", "aaa"], [""]),
    "star": ({"type": "star", "content": text("ab")}, ["", "ab", "abab"], ["a", "aba"]),
    "repeat": ({"type": "repeat", "min": 1, "max": 3, "content": text("a")}, ["a", "aaa"], ["", "aaaa"]),
    "repeat_unbounded": ({"type": "repeat", "min": 2, "max": -1, "content": text("a")}, ["aa", "a" * 9], ["a"]),
    "tag": (ADD, ['<f=add>{"n":1}</f>'], ["", '<f=add>{"n":1}', "<f=add></f>"]),
    "tag_any_text": (
        tag("<t>", {"type": "any_text"}, "</t>"),
        ["<t></t>", "<t>a<b</t>"],
        ["<t>a</t>b</t>", "<t>", "x"],
    ),
    "tag_ends": (
        tag("<t>", {"type": "any_text"}, ["</t>", "</a>"]),
        ["<t>x</t>", "<t>x</a>"],
        ["<t>x", "<t>x</a></t>"],
    ),
    "tag_no_end": (tag("<t>", {"type": "any_text"}, ""), ["<t>", "<t>anything"], ["", "x"]),
    "nested": (
        tag("<r>", {"type": "sequence", "elements": [text("a"), {"type": "any_text"}, text("b")]}, "</r>"),
        ["<r>ab</r>", "<r>a x b</r>"],
        ["<r>a</r>", "<r>ab", "<r>a</r>b</r>"],
    ),
    "triggered_tags": (
        TRIGGERED,
        ["", "hello", "hi <f=add>{}</f> and <f=say>xyz</f>!", "<f=say>a</f>", "< f=", "<f"],
        ["<f=", "<f=sub>", "<f=add>", "<f=say>a</f><f=", "x<f=add>x</f>"],
    ),
    "triggered_at_least_one": (
        TRIGGERED | {"at_least_one": True},
        ["<f=say>a</f>", "<f=say>a</f> hello <f=say>b</f>"],
        ["", "hello", "hi <f=say>a</f>"],
    ),
    "triggered_stop_after_first": (
        TRIGGERED | {"stop_after_first": True},
        ["", "hello", "hi <f=say>a</f>"],
        ["<f=say>a</f>!", "<f=say>a</f><f=say>a</f>"],
    ),
    "triggered_exactly_one": (
        TRIGGERED | {"stop_after_first": True, "at_least_one": True},
        ["<f=say>a</f>"],
        ["", "hello", "hi <f=say>a</f>", "<f=say>a</f>!"],
    ),
    "triggered_excludes": (
        TRIGGERED | {"excludes": ["stop"]},
        ["st op", "<f=say>stop</f>"],
        ["stop", "x<f=say>a</f>stop"],
    ),
    "triggered_in_tag": (
        tag("<r>", TRIGGERED, "</r>"),
        ["<r></r>", "<r>hello</r>", "<r>x<f=say>a</f>y<f=say>b</f></r>"],
        ["<r>", "<r>x</r>y", "<r><f=say>a</r>", "<r>x<f=</r>"],
    ),
    "two_triggers": (
        {
            "type": "triggered_tags",
            "triggers": ["<a", "[b"],
            "tags": [tag("<a>", text("1"), "</a>"), tag("[b]", text("2"), "[/b]")],
        },
        ["x<a>1</a>y[b]2[/b]z", "[b]2[/b]<a>1</a>"],
        ["<a>2</a>", "[b]1[/b]", "x[b"],
    ),
    "tags_with_separator": (
        {"type": "tags_with_separator", "tags": [ADD, SAY], "separator": ","},
        ["", "<f=say>a</f>", "<f=say>a</f>,<f=add>{}</f>,<f=say>b</f>"],
        [",", "<f=say>a</f>,", "<f=say>a</f><f=say>a</f>", "x<f=say>a</f>"],
    ),
    "tags_with_separator_one": (
        {
            "type": "tags_with_separator",
            "tags": [SAY],
            "separator": ",",
            "at_least_one": True,
            "stop_after_first": True,
        },
        ["<f=say>a</f>"],
        ["", "<f=say>a</f>,<f=say>a</f>"],
    ),
    "dispatch": (
        {"type": "dispatch", "rules": [["<f=1>", text("a.")], ["<f=2>", NUMBER]]},
        ["", "x", "x<f=1>a.y<f=2>{}z"],
        ["<f=1>", "<f=1>b.", "<f=2>x"],
    ),
    "dispatch_once": (
        {"type": "dispatch", "rules": [["<f=1>", text("a.")]], "loop": False, "excludes": ["!"]},
        ["", "x", "x<f=1>a."],
        ["<f=1>a.y", "!"],
    ),
    "token": ({"type": "token", "token": "<call>"}, ["<call>"], ["", "x"]),
    "token_id": ({"type": "token", "token": 97}, ["a"], ["", "b"]),
    "tag_of_tokens": (
        tag({"type": "token", "token": "<call>"}, {"type": "any_tokens"}, {"type": "token", "token": 258}),
        ["<call>hello</call>", "<call></call>"],
        ["hello", "<call>hello", "<call><call></call>"],
    ),
    "token_triggered_tags": (
        {"type": "token_triggered_tags", "trigger_tokens": [257], "tags": [tag("<call>", NUMBER, "</call>")]},
        ["hello", "hello <call>{}</call>", "<call>{}</call>a<call>{}</call>"],
        ["<call>", "<call>hello</call>", "</call>"],
    ),
    "token_dispatch": (
        {"type": "token_dispatch", "rules": [["<call>", text("1")], [258, text("2")]]},
        ["x<call>1y</call>2"],
        ["x<call>2", "</call>1"],
    ),
    "qwen_xml_parameter": (
        {
            "type": "qwen_xml_parameter",
            "json_schema": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
                "required": ["name"],
            },
        },
        [
            '<parameter=name>any "text"\n</parameter>',
            "<parameter=name>x</parameter>\n<parameter=age> 3 </parameter><parameter=unit>C</parameter>\n",
        ],
        [
            "",
            "<parameter=age>3</parameter>",
            "<parameter=name>x</parameter><parameter=age>y</parameter>",
            "<parameter=name>x",
        ],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_allows_its_texts_and_no_others(name):
    format, good, bad = FORMATS[name]
    matcher = matcher_of(tagged(format))
    assert [text for text in good if not accepts(matcher, ids_of(text))] == []
    assert [text for text in bad if accepts(matcher, ids_of(text))] == []


def test_the_legacy_form_is_triggered_tags():
    structures = [{"begin": "<f=add>", "schema": NUMBER["json_schema"], "end": "</f>"}]
    structures.append({"begin": "<f=any>", "schema": "{}", "end": "</f>"})
    for kind in ({}, {"type": "structural_tag"}):
        whole = json.dumps(kind | {"structures": structures, "triggers": ["<f="]})
        matcher = matcher_of(StructuredOutputs(structural_tag=whole))
        assert accepts(matcher, 'a <f=add>{"n": 3}</f> b <f=any>[1]</f>')
        assert not accepts(matcher, 'a <f=add>{"n": "3"}</f>')
        assert not accepts(matcher, "a <f=sub>")


def test_schemas_of_tags_are_closed_and_compact_where_that_is_asked():
    whole = json.dumps({"format": {"type": "json_schema", "json_schema": {"type": "object"}}})
    asked = StructuredOutputs(structural_tag=whole, disable_additional_properties=True, disable_any_whitespace=True)
    assert [accepts(matcher_of(asked), text) for text in ("{}", '{"a":1}', "{ }")] == [True, False, False]
    assert accepts(matcher_of(StructuredOutputs(structural_tag=whole)), '{ "a": 1 }')


def test_ordinary_text_may_not_look_like_a_special_token_that_ends_it():
    """The text of a special token is no marker: only the token itself is."""
    matcher = matcher_of(tagged(tag("<call>", {"type": "any_text"}, "</call>")))
    assert accepts(matcher, [257, *b"<call></call>", 258])


def deep(levels):
    format = text("x")
    for _ in range(levels):
        format = {"type": "optional", "content": format}
    return format


REFUSED = {
    "not json": ("{", "not JSON"),
    "no object": ("[]", "must be an object"),
    "other type": ('{"type": "json_schema", "format": {}}', "must be an object of type 'structural_tag'"),
    "no format": ('{"type": "structural_tag"}', "must have a 'format'"),
    "format no object": ('{"format": []}', "an object with a 'type'"),
    "unknown format": ('{"format": {"type": "haiku"}}', "'haiku' is not supported"),
    "one token of any": ('{"format": {"type": "exclude_token"}}', "'exclude_token' is not supported"),
    "token budget": ('{"format": {"type": "any_text", "max_tokens": 3}}', "'max_tokens'"),
    "any order": ('{"format": {"type": "json_schema", "json_schema": {}, "any_order": true}}', "'any_order'"),
    "style": ('{"format": {"type": "json_schema", "json_schema": {}, "style": "glm_xml"}}', "'style'"),
    "no schema": ('{"format": {"type": "json_schema"}}', "'json_schema'"),
    "bad schema": ('{"format": {"type": "json_schema", "json_schema": {"not": {"type": "null"}}}}', "'not'"),
    "bad regex": ('{"format": {"type": "regex", "pattern": "("}}', "unclosed group"),
    "bad grammar": ('{"format": {"type": "grammar", "grammar": "root ::= nothing"}}', "not found"),
    "no elements": ('{"format": {"type": "sequence", "elements": []}}', "'elements'"),
    "no tags": ('{"format": {"type": "triggered_tags", "triggers": ["<"], "tags": []}}', "'tags'"),
    "no value": ('{"format": {"type": "const_string"}}', "'value'"),
    "counts": ('{"format": {"type": "repeat", "min": 3, "max": 2, "content": {"type": "any_text"}}}', "min <= max"),
    "no marker": ('{"format": {"type": "tag", "begin": 97, "content": {"type": "any_text"}, "end": ""}}', "no marker"),
    "too deep": (json.dumps({"format": deep(90)}), "deeper than 80"),
    "endless text": (
        json.dumps({"format": {"type": "sequence", "elements": [{"type": "any_text"}, NUMBER]}}),
        "free text must end in fixed text",
    ),
    "trigger": (
        json.dumps({"format": {"type": "triggered_tags", "triggers": ["[f"], "tags": [SAY]}}),
        "begins with none of the triggers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_wrong_or_not_supported_is_named(name):
    text, reason = REFUSED[name]
    with pytest.raises(InvalidParameter, match=reason) as caught:
        matcher_of(StructuredOutputs(structural_tag=text))
    assert caught.value.param == "structured_outputs"
