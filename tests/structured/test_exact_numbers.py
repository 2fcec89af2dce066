"""Numbers of a schema are exact: a grammar accepts the numbers that are valid digit by digit, and no others."""

import json
import math
import re
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured.exact_numbers import format_number
from jaxserve.structured.grammar_expr import JsonSchema, JsonWhitespace
from jaxserve.structured.number_patterns import decimal_range_pattern, integer_range_pattern
from jaxserve.structured_outputs import StructuredOutputs
from scripts.structured_checks.numbers import find_faults
from tests.structured.byte_tokenizer import accepts, matcher_of

NUM_SEEDS = 250


def allows(schema, *texts):
    """Whether a schema allows each of some texts. The schema is a text, so that its numbers keep all digits."""
    matcher = matcher_of(JsonSchema(schema, JsonWhitespace(is_compact=True)))
    return [accepts(matcher, text) for text in texts]


def refusal(schema):
    with pytest.raises(InvalidParameter) as caught:
        matcher_of(JsonSchema(schema))
    return str(caught.value)


@pytest.mark.parametrize("first", range(0, NUM_SEEDS, 50))
def test_random_numbers_are_judged_as_jsonschema_judges_them(first):
    counts: Counter[str] = Counter()
    assert [fault for seed in range(first, first + 50) for fault in find_faults(seed, counts)] == []
    assert counts["grammars"] > 30 and counts["accepted"] > 50 and counts["walks"] > 50


decimals = st.decimals(-(10**4), 10**4, places=4) | st.integers(-100, 100).map(Decimal)


@given(st.none() | decimals, st.none() | decimals, st.lists(decimals, min_size=5))
def test_a_pattern_matches_the_numbers_of_its_range(first, last, numbers):
    low, high = (first, last) if first is None or last is None or first <= last else (last, first)
    pattern = decimal_range_pattern(low, high)
    for number in [*numbers, *(bound for bound in (low, high) if bound is not None)]:
        within = (low is None or number >= low) and (high is None or number <= high)
        for text in {format(number, "f"), format(number.normalize(), "f")}:
            if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", text):
                assert (re.fullmatch(pattern, text) is not None) == within, (text, low, high)


@given(st.integers(-(10**20), 10**20), st.integers(0, 2000), st.data())
def test_a_pattern_matches_the_integers_of_its_range(low, width, data):
    pattern = integer_range_pattern(low, low + width)
    number = data.draw(st.integers(low - 3, low + width + 3) | st.integers())
    assert (re.fullmatch(pattern, str(number)) is not None) == (low <= number <= low + width)


@given(st.integers(2**53) | st.floats(allow_nan=False, allow_infinity=False).filter(bool))
def test_a_listed_number_is_written_so_that_it_is_read_back(number):
    text = format_number(Decimal(repr(number)))
    assert json.loads(text) == number and len(text) <= len(repr(number)) + 8
    assert "e" not in text or isinstance(number, float)


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["exclusiveMinimum", "exclusiveMaximum"]))
def test_an_exclusive_bound_cannot_be_reached(bound, keyword):
    above = keyword == "exclusiveMinimum"
    last = math.nextafter(bound, math.inf if above else -math.inf)
    if math.isfinite(last):
        other = "maximum" if above else "minimum"
        schema = f'{{"type":"number","{keyword}":{bound!r},"{other}":{last!r}}}'
        texts = [format(Decimal(repr(number)), "f") for number in (bound, last)]
        assert allows(schema, *texts, texts[0] + ("0" if "." in texts[0] else ".0")) == [False, True, False]


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ('{"type":"number","exclusiveMinimum":0,"maximum":0.5}', "0.5 0.50 0.0001", "0 -0 0.0 0.00 0.51 1"),
        ('{"type":"number","exclusiveMinimum":3,"maximum":3.5}', "3.1 3.5", "3 3.0 3.6 4"),
        ('{"type":"number","minimum":-0.5,"exclusiveMaximum":0}', "-0.5 -0.1", "-0 0 -0.0 -0.6"),
        ('{"type":"number","minimum":0.1,"maximum":0.15}', "0.1 0.10 0.149 0.15", "0.09 0.151 0"),
        ('{"type":"number","minimum":0,"exclusiveMinimum":true,"maximum":1}', "0.5 1", "0 0.0 1.1"),
        ('{"type":"integer","minimum":0.5,"maximum":3.0}', "1 3", "0 4 1.5 3.0"),
        ('{"type":"integer","exclusiveMinimum":2.5,"exclusiveMaximum":5}', "3 4", "2 5"),
        ('{"type":"integer","minimum":-9223372036854775808,"maximum":-9223372036854775807}',
         "-9223372036854775808 -9223372036854775807", "-9223372036854775809 -9223372036854775806 0"),
        ('{"type":"integer","exclusiveMaximum":18446744073709551616}', "18446744073709551615", "18446744073709551616"),
        ('{"type":"integer","minimum":1e22}', "10000000000000000000000", "9999999999999999999999"),
        ('{"enum":[1152921504606846977,1152921504606846979]}', "1152921504606846977", "1152921504606846976 -1"),
        ('{"const":-9.991712312597997}', "-9.991712312597997", "-9.991712312597995"),
        ('{"const":-9223372036854775808}', "-9223372036854775808", "-9223372036854775809"),
        ('{"const":0.1000000000000000055511151231257827}', "0.1000000000000000055511151231257827", "0.1"),
        ('{"enum":[3.0,1e300,-0.0]}', "3 1e+300", "1 30"),
        ('{"enum":[9007199254740993,"a",null,[9007199254740993]]}', '9007199254740993 "a" null [9007199254740993]',
         "[9007199254740992] 1 [] [9007199254740993,1]"),
        ('{"const":{"id":9007199254740993,"b":[0.30000000000000004]}}',
         '{"id":9007199254740993,"b":[0.30000000000000004]}', '{"id":9007199254740993} {} {"id":1,"b":[0.3]}'),
        ('{"enum":[9007199254740993,9007199254740995,1.5],"type":"integer","maximum":9007199254740994}',
         "9007199254740993", "9007199254740995 1.5"),
        ('{"allOf":[{"enum":[9007199254740993,2]},{"enum":[2.0,9007199254740993.0,7]}]}', "9007199254740993 2", "7"),
    ],
)  # fmt: skip
def test_these_are_exact(schema, accepted, refused):
    assert allows(schema, *accepted.split(), *refused.split()) == [
        *[True] * len(accepted.split()),
        *[False] * len(refused.split()),
    ]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ('{"type":"number","maximum":1e400}', "'maximum' at # cannot be enforced: 1e400 is beyond the range of"),
        ('{"enum":[1,-1e400]}', "'enum' at # cannot be enforced: -1e400 is beyond"),
        ('{"const":[1e-400]}', "'const' at # cannot be enforced: 1e-400 is beyond"),
        (f'{{"minimum":{"7" * 101}}}', "'minimum' at # cannot be enforced: 7777"),
        (f'{{"title":"x","default":{"7" * 309}}}', "a number has more than 308 digits"),
        (f'{{"const":{"7" * 5000}}}', "a number has more than 308 digits"),
        (f'{{"$ref":"#/allOf/{"7" * 5000}","allOf":[{{}}]}}', "points at no schema"),
        ('{"minLength":3.00000000000000000001}', "'minLength' at # must be a whole number"),
        ('{"maxItems":1e400}', "'maxItems' at # must be a whole number"),
        ('{"type":"number","exclusiveMinimum":1,"exclusiveMaximum":1.0000000000000002}', "no JSON value is valid"),
        ('{"type":"number","exclusiveMinimum":1.7976931348623157e308}', "no JSON value is valid"),
        ('{"type":"integer","minimum":0.2,"maximum":0.8}', "no JSON value is valid"),
        ('{"type":"array","items":{"type":"integer","minimum":2,"maximum":1},"minItems":1}', "no JSON value is valid"),
    ],
)  # fmt: skip
def test_what_is_not_exact_is_refused_by_name(schema, reason):
    message = refusal(schema)
    assert reason in message and "sys.set_int_max_str_digits" not in message


ORDER = """{"type":"object","properties":{
  "id":{"enum":[1152921504606846977,1152921504606846979]},
  "rates":{"type":"array","items":{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1},"maxItems":2},
  "note":{"type":"string","maxLength":5},
  "parent":{"$ref":"#"},
  "either":{"anyOf":[{"type":"string"},{"type":"integer","minimum":-9223372036854775808}]}
  },"required":["id"],"additionalProperties":{"type":"number","exclusiveMinimum":0}}"""
ORDERS = {
    '{"id": 1152921504606846977}': True,
    '{"id":1152921504606846979,"rates":[0.5, 0.25],"note":"a","parent":{"id":1152921504606846977}}': True,
    '{"id": 1152921504606846977, "either": "x", "z": 0.5}': True,
    '{\n  "id": 1152921504606846977,\n  "either": -9223372036854775808\n}': True,
    '{"id": 1152921504606846977, "z": 1, "y": 2.5}': True,
    '{"id": 1152921504606846978}': False,
    '{"id":   1152921504606846977}': False,
    '{"id": 1152921504606846977, "rates": [0.5, 0.25, 0.1]}': False,
    '{"id": 1152921504606846977, "rates": [1]}': False,
    '{"id": 1152921504606846977, "note": "123456"}': False,
    '{"id": 1152921504606846977, "note": "a", "note": 1}': False,
    '{"id": 1152921504606846977, "z": 0}': False,
    '{"id": 1152921504606846977, "parent": {}}': False,
    '{"note": "a"}': False,
}


def test_exact_numbers_stand_anywhere_in_a_schema():
    for asked in (
        StructuredOutputs(json=ORDER),
        StructuredOutputs(structural_tag=f'{{"format":{{"type":"json_schema","json_schema":{ORDER}}}}}'),
    ):
        matcher = matcher_of(asked)
        assert {text: accepts(matcher, text) for text in ORDERS} == ORDERS


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_items_and_members_are_counted_beside_exact_numbers(count):
    number = '{"const":9007199254740993}'
    items, members = (
        f'{{"type":"array","items":{number},"minItems":1,"maxItems":3}}',
        f'{{"type":"object","additionalProperties":{number},"minProperties":1,"maxProperties":1}}',
    )
    array = "[" + ",".join(["9007199254740993"] * count) + "]"
    object_ = "{" + ",".join(f'"{name}":9007199254740993' for name in range(count)) + "}"
    assert allows(items, array) == [1 <= count <= 3] and allows(members, object_) == [count == 1]
    first = f'{{"type":"array","prefixItems":[true,{number}],"items":{number},"minItems":1,"maxItems":3}}'
    assert allows(first, array) == [1 <= count <= 3]
    named = f'{{"type":"object","patternProperties":{{"^[0-9]$":{number}}},"additionalProperties":false}}'
    assert allows(named, object_, '{"x":9007199254740993}') == [True, False]


def test_an_undeclared_name_is_another_than_the_declared_ones():
    schema = '{"type":"object","properties":{"ab":true,"a\\"":true},"additionalProperties":{"const":9007199254740993}}'
    names = {"a": True, "": True, "abc": True, "b": True, "ab": False, 'a"': False}
    assert {name: allows(schema, f"{{{json.dumps(name)}:9007199254740993}}")[0] for name in names} | {
        "ab": allows(schema, '{"ab":1,"ab":9007199254740993}')[0],
        'a"': allows(schema, '{"a\\"":1,"a\\"":9007199254740993}')[0],
    } == names
