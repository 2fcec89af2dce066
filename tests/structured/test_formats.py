"""A `format` is enforced for values and for names of properties, and formats that are not enforced are reported."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxserve.structured.compiler import GrammarCompiler
from jaxserve.structured.formats import format_keywords
from jaxserve.structured.grammar_expr import (
    JsonSchema,
    JsonWhitespace,
    OrExpr,
    SequenceExpr,
    TaggedArguments,
    TextLiteral,
)
from jaxserve.structured.unenforced_formats import find_unenforced_formats
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import accepts, byte_tokenizer, matcher_of

ID, OTHER_ID = "3b241101-e2bb-4255-8caf-4136c566a962", "3b241101-e2bb-1255-8caf-4136c566a962"
# format → (texts of it, texts that are none)
FORMATS = {
    "date": (["2024-02-29", "0001-01-01"], ["2023-02-29", "2024-1-1", "0000-01-01"]),
    "time": (["23:59:59Z", "00:00:00.5+01:00"], ["24:00:00Z", "12:00:00", "12:00Z"]),
    "date-time": (["2024-02-29T00:00:00Z"], ["2024-02-29", "2024-02-29T00:00:00"]),
    "duration": (["P1Y2M3D", "PT5S", "P3W", "P1DT12H"], ["P", "PT", "P1Y2D", "1D", "P1DT", "P1WT1H"]),
    "email": (
        ["a@b.c", "a.b+c@x-y.example", "!#$%@d", "a@[127.0.0.1]"],
        ["a", "a@", ".a@b", "a..b@c", "a@-b", "a b@c"],
    ),
    "hostname": (["a", "a-b.c.example"], ["", "-a", "a..b", "a.", "a" * 64, ".".join(["a" * 63] * 4)]),
    "ipv4": (["0.0.0.0", "255.10.99.200"], ["256.0.0.1", "01.0.0.1", "1.2.3"]),
    "ipv6": (["::", "::1", "1:2:3:4:5:6:7:8", "fe80::1:2", "::ffff:1.2.3.4"], ["1", ":::", "1::2::3", "1:2:3:4:5:6:7"]),
    "uri": (["http://a.example:8/b?c#d", "urn:x:y", "ftp://[::1]/"], ["/a", "a", "http://a b", "1a:b"]),
    "uri-reference": (["/a", "a", "?b", "http://[::1]"], ["\\", "http://[::1"]),
    "uuid": ([ID, OTHER_ID, ID.upper()], [ID[:-1], ID.replace("-", ""), f"{{{ID}}}"]),
    "uuid4": ([ID], [OTHER_ID, ID.replace("8caf", "ccaf")]),
    "uuid1": ([OTHER_ID], [ID]),
    "json-pointer": (["", "/a/~0~1"], ["a", "/~2"]),
    "ipv4interface": (["1.2.3.4", "1.2.3.4/32"], ["1.2.3.4/33", "1.2.3/8"]),
    "ipv6interface": (["::1", "::1/128"], ["::1/129", "1.2.3.4"]),
    "ipvanyaddress": (["::1", "1.2.3.4"], ["1.2.3.4/8", ""]),
    "base64": (["", "YQ==", "YWI=", "YWJj"], ["YQ", "Y===", "YQ=", "Y-_="]),
    "base64url": (["", "YQ==", "Y-_="], ["YQ", "Y+/="]),
}
PAIRS = [
    (name, text, is_good) for name, (good, bad) in FORMATS.items() for text in good + bad for is_good in [text in good]
]


def matcher_for(schema):
    return matcher_of(JsonSchema(json.dumps(schema), JsonWhitespace(is_compact=True)))


def quoted(text):
    return json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "names",
    [
        lambda name: {"format": name},
        lambda name: {"type": "string", "format": name},
        lambda name: {"$ref": "#/$defs/name"},
        lambda name: {"allOf": [{"type": "string"}, {"$ref": "#/$defs/name"}]},
    ],
)
def test_a_format_is_enforced_for_values_and_names_alike(name, names):
    values = matcher_for({"type": "string", "format": name})
    definitions = {"$defs": {"name": {"format": name}}}
    keys = matcher_for(
        {"propertyNames": names(name), "additionalProperties": {"const": 1}, "type": "object"} | definitions
    )
    for text, is_good in [(text, is_good) for other, text, is_good in PAIRS if other == name]:
        assert accepts(values, quoted(text)) == is_good, text
        assert accepts(keys, f"{{{quoted(text)}:1}}") == (is_good and not (name == "hostname" and len(text) > 253)), (
            text
        )


def test_names_of_several_conditions_keep_all_of_them():
    """As zod writes records: a pattern and the format beside it."""
    pattern = r"^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12})$"
    names = {"type": "string", "format": "uuid", "pattern": pattern, "maxLength": 36}
    matcher = matcher_for({"type": "object", "propertyNames": names, "additionalProperties": {"const": 1}})
    assert [accepts(matcher, f'{{"{text}":1}}') for text in (ID, OTHER_ID)] == [True, False]


@pytest.mark.parametrize("name", ["binary", "path", "password", "file-path", "json-string", "haiku", "ipv4network"])
def test_a_format_that_nobody_knows_is_an_annotation(name):
    schema = {"type": "object", "properties": {"a": {"format": name}, "b": {"type": "integer", "format": name}}}
    assert find_unenforced_formats(JsonSchema(json.dumps(schema))) == (name,)
    matcher = matcher_for(schema)
    assert accepts(matcher, '{"a":"\\u0000","b":7}') and not accepts(matcher, '{"b":"7"}')


def test_the_formats_of_every_schema_that_counts_are_named_once():
    unused = {"$defs": {"unused": {"format": "c"}, "used": {"format": "a"}}, "$ref": "#/$defs/used"}
    data = {"properties": {"format": {"enum": [{"format": "d"}]}}, "additionalProperties": {"format": "b"}}
    names = JsonSchema(json.dumps({"type": "object", "propertyNames": {"format": "e"}}))
    calls = TaggedArguments(
        JsonSchema(json.dumps({"type": "object", "properties": {"x": {"format": "f"}}})), "<", ">", "</>"
    )
    expr = OrExpr(
        (
            JsonSchema(json.dumps(unused)),
            SequenceExpr((TextLiteral("x"), JsonSchema(json.dumps(data)), names, calls, names)),
        )
    )
    assert find_unenforced_formats(expr) == ("a", "b", "e", "f")


def test_a_format_whose_texts_a_pattern_excludes_is_an_annotation():
    """zod 4.1 writes `format: time` beside a pattern for times without a zone, of which RFC 3339 has none."""
    schema = {"type": "string", "format": "time", "pattern": r"^(?:[01]\d|2[0-3]):[0-5]\d$"}
    assert find_unenforced_formats(JsonSchema(json.dumps(schema))) == ("time",)
    assert [accepts(matcher_for(schema), quoted(text)) for text in ("23:59", "23:59:59Z")] == [True, False]


def test_a_compiled_grammar_knows_its_annotations_and_they_are_logged_once(caplog):
    compiler = GrammarCompiler(byte_tokenizer())
    try:
        for schema in ({"format": "haiku"}, {"items": {"format": "haiku"}}, {"format": "ode"}):
            grammar = compiler.compile(StructuredOutputs(json=json.dumps(schema)))
        assert grammar.unenforced_formats == ("ode",)
        assert compiler.compile(StructuredOutputs(json='{"format": "date"}')).unenforced_formats == ()
    finally:
        compiler.close()
    assert [re.findall("'(.*?)'", record.getMessage()) for record in caplog.records] == [["haiku"], ["ode"]]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(sorted(FORMATS)))
def test_what_a_formats_pattern_generates_is_of_the_format(data, name):
    pattern = format_keywords({"format": name})["pattern"]
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    most = format_keywords({"format": name}).get("maxLength", len(text))
    is_accepted = accepts(matcher_for({"type": "string", "format": name}), quoted(text).replace("\x7f", "\\u007f"))
    assert is_accepted == (len(text) <= most)
