"""Patterns with look-ahead that libraries write are enforced as Python's `re` understands them."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import JsonSchema
from jaxserve.structured.lookaheads import remove_lookahead
from jaxserve.structured.patterns import is_found, translate_pattern
from tests.structured.byte_tokenizer import accepts, matcher_of

LABEL = "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
OTHER_LABEL = "[a-zA-Z0-9](?:[-0-9a-zA-Z]{0,61}[0-9a-zA-Z])?"
ZOD_DURATION = r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+([.,]\d+)?S)?)?)$"
SIGNED = r"^(?!^[-+.]*$)[+-]?0*"
# what a library writes → what it means, where that is another pattern
PATTERNS = {
    rf"^(?!\.)(?!.*\.\.)([{a}0-9_'+\-\.]*)[{a}0-9_+-]@([{a}0-9][{a}0-9\-]*\.)+[{a}]{{2,}}$": None
    for a in ("a-zA-Z", "A-Za-z", "A-Z")  # zod 3 and 4
} | {
    rf"^(?=.{{1,253}}\.?$){LABEL}(?:\.{OTHER_LABEL})*\.?$": None,  # zod 4
    ZOD_DURATION: None,
    SIGNED + r"\d*\.?\d*$": None,  # pydantic 2.12
    SIGNED + r"\d*\.?\d{0,2}0*$": None,
    # The first option has no end there: what begins with digits is found, whatever comes behind.
    SIGNED + r"(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*$)": (
        SIGNED + r"(?:\d{0,3}|(?=[\d.]{1,6}0*$)\d{0,3}\.\d{0,2}0*)$"
    ),
    SIGNED + r"(?:\d{0,0}|(?=[\d.]{1,3}0*$)\d{0,0}\.\d{0,2}0*$)": (
        SIGNED + r"(?:\d{0,0}|(?=[\d.]{1,3}0*$)\d{0,0}\.\d{0,2}0*)$"
    ),
    SIGNED + r"(?:\d{0,5}|(?=[\d.]{1,6}0*$)\d*\.\d*0*$)": SIGNED + r"(?:\d{0,5}|(?=[\d.]{1,6}0*$)\d*\.\d*0*)$",
    r"^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{4,8}$": None,  # of passwords
    r"^(?=[^)|\]]*a)[^\d(|]+$": None,
}
CHARS = st.sampled_from(".-+@0159aZPTWYMDHS,_' \n")


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(st.data(), st.sampled_from(list(PATTERNS)), st.booleans())
def test_a_librarys_pattern_is_found_where_re_finds_it(data, pattern, is_changed):
    meant = re.compile((PATTERNS[pattern] or pattern).removesuffix("$") + r"\Z", re.ASCII)
    text = data.draw(st.from_regex(meant).filter(lambda text: "\0" not in text))
    if is_changed:
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        text = text[:start] + data.draw(st.text(CHARS, max_size=2)) + text[end if end - start < 4 else start :]
    found = all(is_found(translate_pattern(part), text) for part in remove_lookahead(pattern))
    assert found == (meant.search(text) is not None), (text, remove_lookahead(pattern))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_schema_may_have_it(pattern):
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]}
    matcher = matcher_of(JsonSchema(json.dumps(schema)))
    assert not accepts(matcher, '{"a": "."}')


def test_a_key_may_match_what_has_one_equivalent():
    schema = {"type": "object", "patternProperties": {ZOD_DURATION: {}}, "additionalProperties": False}
    matcher = matcher_of(JsonSchema(json.dumps(schema)))
    assert [accepts(matcher, text) for text in ('{"P1D": 1}', '{"P": 1}')] == [True, False]


@pytest.mark.parametrize("pattern", ["^(?=a)b|c", "(?=a)b", "^(?!a)b", "^a(?=b)", "^(?<=a)b", "^(?=a", r"^(?=a)(?!b)c"])
def test_any_other_look_around_is_refused_by_name(pattern):
    with pytest.raises(InvalidParameter, match=r"'pattern' at #.*(look-around|unclosed group)"):
        matcher_of(JsonSchema(json.dumps({"type": "string", "pattern": pattern})))


def test_patterns_without_look_ahead_stay_as_they_are():
    for pattern in ("^a$", r"\(?=a", "", "^(?:a|b)"):
        assert remove_lookahead(pattern) == (pattern,)
