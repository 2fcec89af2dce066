"""What constraints a client may ask for, in each of their forms; and what is refused, before the first byte."""

import json
import re

import pytest

from tests.end_to_end.contract.api_client import check_error
from tests.end_to_end.contract.checked_replies import (
    BOLD,
    COLOURS,
    checked_document,
    checked_error,
    checked_text,
    completion,
)

pytestmark = pytest.mark.assets

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
}
TINY = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
TAG = {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": TINY}, "end": "</a>"}
LEGACY = {"structures": [{"begin": "<a>", "schema": TINY, "end": "</a>"}], "triggers": ["<a"]}
EBNF = 'root ::= "x" [0-9] "y"\n'
LARK = 'start: "x" DIGIT "y"\nDIGIT: /[0-9]/\n'


def wrapped(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **more}}


TOO_NESTED = (
    '{"type": "structural_tag", "format": '
    + '{"type": "sequence", "elements": [' * 81
    + '{"type": "any_text"}'
    + "]}" * 81
) + "}"
DEEP = '{"items":' * 65 + "{}" + "}" * 65


class TestSources:
    @pytest.mark.parametrize("schema", [PERSON, json.dumps(PERSON)], ids=["object", "text"])
    def test_json_is_a_schema(self, ask, schema):
        value = json.loads(checked_text(ask, structured_outputs={"json": schema}, **BOLD))
        assert list(value) == ["name", "age"] and 0 <= value["age"] <= 99 and len(value["name"]) <= 12

    @pytest.mark.parametrize("schema", [{}, "{}", "true"], ids=str)
    def test_the_empty_schema_is_any_value(self, ask, schema):
        """Bounded from outside: values may be of any length."""
        said = ask.choice(structured_outputs={"json": schema}, max_tokens=200)
        if said["finish_reason"] == "stop":
            json.loads(said["message"]["content"])

    def test_regex_is_matched_by_the_whole_answer(self, ask):
        for seed in range(3):
            assert re.fullmatch(
                r"[ab]{2,4}-\d\d", checked_text(ask, structured_outputs={"regex": r"[ab]{2,4}-\d\d"}, seed=seed)
            )

    def test_the_empty_regex_is_an_empty_answer(self, ask):
        reply = ask.chat(structured_outputs={"regex": ""})
        choice = reply["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "stop")
        assert reply["usage"]["completion_tokens"] == 1

    @pytest.mark.parametrize("options", [COLOURS, ["one option"], ["", " "], ["a\nb\u00e9 \U0001f600\"'"]], ids=str)
    def test_choice_is_one_of_them_byte_for_byte(self, ask, options):
        for seed in range(2):
            assert checked_text(ask, structured_outputs={"choice": options}, seed=seed, **BOLD) in options

    @pytest.mark.parametrize("grammar", [EBNF, LARK], ids=["ebnf", "lark"])
    def test_grammar_comes_in_two_forms(self, ask, grammar):
        assert re.fullmatch("x[0-9]y", checked_text(ask, structured_outputs={"grammar": grammar}, **BOLD))

    @pytest.mark.parametrize(
        "fields",
        [{"structured_outputs": {"json_object": True}}, {"response_format": {"type": "json_object"}}],
        ids=["structured_outputs", "response_format"],
    )
    def test_json_object_is_an_object(self, ask, fields):
        said = ask.choice(**fields, max_tokens=150)
        assert said["message"]["content"].lstrip().startswith("{")
        if said["finish_reason"] == "stop":
            assert isinstance(json.loads(said["message"]["content"]), dict)

    def test_a_structural_tag_holds_what_its_regions_say(self, ask):
        tag = {"type": "structural_tag", "format": TAG}
        for fields in ({"response_format": tag}, {"structured_outputs": {"structural_tag": json.dumps(tag)}}):
            said = checked_text(ask, **fields, **BOLD)
            assert json.loads(re.fullmatch("<a>(.*)</a>", said, re.DOTALL)[1]) in ({"a": 1}, {"a": 2})

    def test_the_older_form_of_a_structural_tag_is_taken(self, ask):
        said = checked_text(ask, response_format={"type": "structural_tag", **LEGACY}, max_tokens=40)
        for region in re.findall("<a>(.*?)</a>", said, re.DOTALL):
            assert json.loads(region) in ({"a": 1}, {"a": 2})

    @pytest.mark.parametrize("strict", [None, False, True])
    def test_response_format_of_json_schema_is_always_strict(self, ask, strict):
        said = checked_text(ask, response_format=wrapped(TINY, strict=strict, description="d"), **BOLD)
        assert json.loads(said) in ({"a": 1}, {"a": 2})

    @pytest.mark.parametrize("hint", [None, "auto", "xgrammar", "guidance", "outlines", "lm-format-enforcer"])
    def test_hints_about_engines_change_nothing(self, ask, hint):
        asked = {"choice": COLOURS, "_backend": hint, "disable_fallback": True, "_backend_was_auto": False}
        assert checked_text(ask, structured_outputs=asked) == checked_text(ask, structured_outputs={"choice": COLOURS})

    def test_the_old_guided_fields_are_unknown(self, ask):
        assert ask.text(guided_regex="x+", guided_choice=["a"], guided_json={}, guided_grammar="x") == ask.text()


class TestWhitespace:
    """Each request says itself what stands between tokens of JSON."""

    def test_disable_any_whitespace_is_the_compact_form(self, ask):
        said = checked_text(ask, structured_outputs={"json": PERSON, "disable_any_whitespace": True}, **BOLD)
        assert said == json.dumps(json.loads(said), separators=(",", ":"), ensure_ascii=False) or "\\" in said

    def test_a_whitespace_pattern_is_followed_unless_all_is_disabled(self, ask):
        pattern, compact = {"json": TINY, "whitespace_pattern": "\t\t\t"}, ('{"a":1}', '{"a":2}')
        spaces = {str(one): 100 for one in ask.post("/tokenize", {"prompt": "\t\t\t"}).json()["tokens"]}
        said = checked_text(ask, structured_outputs=pattern, logit_bias=spaces)
        assert "\t\t\t" in said and said.replace("\t\t\t", "") in compact
        assert checked_text(ask, structured_outputs={**pattern, "disable_any_whitespace": True}) in compact

    def test_the_switches_hold_for_a_response_format_of_the_same_key(self, ask):
        asked = {"json": {}, "disable_any_whitespace": True}
        assert checked_text(ask, response_format=wrapped(TINY), structured_outputs=asked) in ('{"a":1}', '{"a":2}')

    def test_disable_additional_properties_leaves_declared_keys_alone(self, ask):
        schema = {"type": "object", "properties": {"a": TINY, "b": {"type": "object", "properties": {}}}}
        schema["required"] = ["a", "b"]
        asked = {"json": schema, "disable_additional_properties": True}
        value = json.loads(checked_text(ask, structured_outputs=asked, **BOLD))
        assert value["b"] == {} and list(value["a"]) == ["a"]


class TestRefusals:
    """None of them is said after a stream has begun."""

    @pytest.mark.parametrize(
        "asked",
        [
            {},
            {"disable_any_whitespace": True},
            {"regex": "a", "choice": ["a"]},
            {"json": "{"},
            {"json": "  "},
            {"json": '"text"'},
            {"json": {"type": "nothing"}},
            {"json": {"allOf": [{"type": "integer"}, {"type": "string"}]}},
            {"json": DEEP},
            {"regex": "("},
            {"regex": "a\0"},
            {"choice": []},
            {"grammar": ""},
            {"grammar": " \n"},
            {"grammar": "root ::= ("},
            {"grammar": 'other ::= "a"'},
            {"grammar": "start: ("},
            {"grammar": 'other: "a"'},
            {"json_object": False},
            {"structural_tag": ""},
            {"structural_tag": "{"},
            {"structural_tag": '{"type": "structural_tag"}'},
            {"structural_tag": '{"type": "structural_tag", "format": {"type": "magic"}}'},
            {"structural_tag": TOO_NESTED},
            {"json": TINY, "whitespace_pattern": "("},
            {"regex": "a", "_backend": "magic"},
        ],
        ids=lambda asked: str(asked)[:60],
    )
    def test_structured_outputs_that_cannot_be(self, ask, asked):
        assert checked_error(ask, structured_outputs=asked)["param"] == "structured_outputs"

    @pytest.mark.parametrize(
        ("asked", "path"),
        [
            ({"json": True}, "json"),
            ({"json": 1}, "json"),
            ({"choice": [1]}, "choice.0"),
            ({"json_object": "x"}, "json_object"),
        ],
        ids=str,
    )
    def test_structured_outputs_of_another_type(self, ask, asked, path):
        error = check_error(ask.ask(structured_outputs=asked))
        assert (error["type"], error["param"]) == ("Bad Request", f"body.structured_outputs.{path}")

    @pytest.mark.parametrize(
        "form",
        [
            {"type": "xml"},
            {"type": "json_schema"},
            {"type": "json_schema", "json_schema": {"name": "n"}},
            {"type": "json_schema", "json_schema": {"schema": {}}},
            wrapped({"type": "nothing"}),
            wrapped({"type": "array", "uniqueItems": True}),
            {"type": "structural_tag"},
            {"type": "structural_tag", "format": {"type": "magic"}},
        ],
        ids=str,
    )
    def test_a_response_format_that_cannot_be_is_named_as_such(self, ask, form):
        assert checked_error(ask, response_format=form)["param"] == "response_format"

    @pytest.mark.parametrize(
        "fields",
        [
            {"response_format": wrapped(TINY), "structured_outputs": {"regex": "a"}},
            {"response_format": {"type": "json_object"}, "structured_outputs": {"json": TINY}},
        ],
        ids=str,
    )
    def test_two_constraints_are_one_too_many(self, ask, fields):
        assert "two constraints" in checked_error(ask, **fields)["message"]

    def test_a_format_of_text_leaves_the_other_field_alone(self, ask):
        asked = {"response_format": {"type": "text", "json_schema": {}}, "structured_outputs": {"choice": COLOURS}}
        assert checked_text(ask, **asked) in COLOURS


class TestCompletions:
    def test_they_are_held_too_each_prompt_and_choice(self, ask):
        asked = {"structured_outputs": {"choice": COLOURS}, "prompt": ["A colour:", "Sky:"], "n": 2, "temperature": 1}
        choices = completion(ask, **asked).json()["choices"]
        assert len(choices) == 4 and all(one["text"] in COLOURS for one in choices)
        assert {one["finish_reason"] for one in choices} == {"stop"}

    def test_response_format_is_a_schema_there_as_well(self, ask):
        said = completion(ask, response_format=wrapped(TINY)).json()["choices"][0]["text"]
        assert json.loads(said) in ({"a": 1}, {"a": 2})

    @pytest.mark.parametrize("stream", [False, True])
    def test_what_cannot_be_is_said_before_the_stream(self, ask, stream):
        for field, value in (("structured_outputs", {"regex": "("}), ("response_format", wrapped({"not": {}}))):
            assert check_error(completion(ask, **{field: value}, stream=stream))["param"] == field


def test_a_document_is_found_in_every_choice_of_a_search(ask):
    checked_document(ask, TINY, use_beam_search=True)
