"""Patterns in schemas and as whole outputs match what Python's `re` matches."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import Regex
from jaxserve.structured.patterns import (
    MAX_BYTES,
    escape_pattern,
    is_found,
    translate_pattern,
    translate_whitespace_pattern,
)
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import EOS, accepts, allowed, matcher_of

CHARS = 'ab1 -_^]\\"&~[/é\n'
TEXTS = st.text(CHARS, max_size=4)
MEMBERS = st.sampled_from(
    ["\\]", "\\\\", "\\-", "\\[", '"', "\\d", "\\s", "\\w", "a-b", "1-9", "a", "b", " ", "^", "[", "é", "/"]
)
MEMBER_LISTS = st.lists(MEMBERS, max_size=3).map("".join)
SETS = st.builds(lambda no, members: f"[{no}b{members}]", st.sampled_from(["", "^"]), MEMBER_LISTS)
ESCAPES = st.sampled_from([r"\d", r"\w", r"\s", r"\S", r"\D", r"\.", r"\/", r"\x61", r"\u00e9"])
ATOMS = SETS | ESCAPES | st.sampled_from(["a", "b", "1", "é", ".", "/"])
COUNTS = st.sampled_from(["", "?", "*", "+", "{2}", "{1,2}", "{0,}", "*?", "+?"])
PIECES = st.builds(lambda atom, count: atom + count, ATOMS, COUNTS)
JOINED = st.lists(PIECES, min_size=1, max_size=3).map("".join)
PATTERNS = st.builds(
    lambda start, options, end: f"{start}(?:{'|'.join(options)}){end}",
    st.sampled_from(["", "^"]),
    st.lists(JOINED, min_size=1, max_size=2),
    st.sampled_from(["", "$"]),
)


def strict(pattern):
    """Python's `$` also matches before a last line break; ours, and ECMA's, does not."""
    return re.compile(pattern.replace("$", r"\Z"), re.ASCII)


@settings(deadline=None)
@given(PATTERNS, TEXTS)
def test_a_pattern_of_a_schema_is_searched_for(pattern, text):
    assert is_found(translate_pattern(pattern), text) == (strict(pattern).search(text) is not None)


@settings(deadline=None)
@given(PATTERNS, st.lists(TEXTS, min_size=1, max_size=4))
def test_a_regex_matches_the_whole_answer(pattern, texts):
    matcher = matcher_of(Regex(pattern))
    for text in texts:
        assert accepts(matcher, text) == (strict(pattern).fullmatch(text) is not None)


@settings(deadline=None)
@given(st.text(max_size=5))
def test_a_literal_finds_itself(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    if "\0" not in text:
        assert is_found(translate_pattern(f"^{escape_pattern(text)}$"), text)


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"[a-z&&[^b]]", "a]", "a"),  # no operator, but a set with & and [, and a bracket behind it
        (r"[+--]", ",", "a"),
        (r"^{.*}$", "{x}", "x"),
        (r"a{b}", "a{b}", "ab"),
        (r"\ud83d\ude00", "😀", "x"),
        (r"[\s\S]{3}", "a\n\x1c", "ab"),
        (r"(?<year>\d{4})-(?P<month>\d\d)", "2024-01", "24-1"),
        (r"(?i)abc", "aBc", "abd"),
        (r"\p{Lu}+", "ÄB", "äb"),
        (r"\A\w\Z", "a", "é"),
        (r"[\b]", "\b", "b"),
    ],
)
def test_dialects_are_understood(pattern, good, bad):
    matcher = matcher_of(Regex(pattern))
    assert (accepts(matcher, good), accepts(matcher, bad)) == (True, False)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(a", "unclosed group"),
        ("[a", "ends too early"),
        ("a\\", "ends too early"),
        ("*a", "missing expression"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"\bword", "lookarounds"),
        ("[]a]", "empty class"),
        (r"\cA", "unrecognized escape"),
        ("a\0", "NUL byte"),
        ("a" * (MAX_BYTES + 1), "longer than"),
    ],
)
def test_what_cannot_be_enforced_is_refused(pattern, reason):
    with pytest.raises(InvalidParameter, match=reason) as caught:
        matcher_of(StructuredOutputs(regex=pattern))
    assert caught.value.param == "structured_outputs" and len(str(caught.value)) < 500


def test_an_empty_regex_ends_at_once():
    matcher = matcher_of(StructuredOutputs(regex=""))
    assert allowed(matcher) == {EOS} and matcher.is_accepting()


def test_whitespace_means_json_whitespace():
    assert translate_whitespace_pattern(r"\s{0,3}") and translate_whitespace_pattern("[ \t]*|\n")
    for pattern in ("\\S", "\x0b", "a?", "\u2028"):
        with pytest.raises(InvalidParameter, match="no whitespace in JSON"):
            translate_whitespace_pattern(pattern)
