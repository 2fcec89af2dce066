"""Grammars in GBNF and Lark, choices, and json_object allow exactly the texts that they describe."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured.grammar_expr import TextChoice
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import EOS, accepts, allowed, matcher_of


def allows(expr, *texts):
    matcher = matcher_of(expr)
    return [accepts(matcher, text) for text in texts]


def grammar(text):
    return StructuredOutputs(grammar=text)


ARITHMETIC = """
root ::= term ("+" term)*   # a sum
term ::= number | "(" root ")"
number ::= [0-9]+
"""

JSON_GBNF = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
array  ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""


def test_gbnf_begins_at_root():
    assert allows(grammar(ARITHMETIC), "1+(22+3)", "1", "", "1+", "(1") == [True, True, False, False, False]
    assert allows(grammar(JSON_GBNF), '{"a": [1, "é", {"b":null}]}', "{}", "[1]") == [True, True, False]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('root ::= "a"\n  | "b"\n  | "c" # last', "c", "d"),
        ('root ::= ("a"\n | "b")', "b", ""),
        (r'root ::= "\"\n\t\\" "\x41\u00e9\U0001F600\x01"', '"\n\t\\Aé😀\x01', '"'),
        (r'root ::= [\x41-\x43\]\\"#] "#" [^\n]', "B#x", "B#\n"),
        (r"root ::= [\u00e0-\u00ff]+", "éü", "e"),
        ('root ::= "a"? "b"* ("c" | "d")+ "e"{2} "f"{1,} "g"{0,2}', "abbcdeefffgg", "ae"),
        ('root ::= [a-z]+ "x"', "abx", "ab"),  # without recursion all is one regular expression
        ('root ::= fooBar foo-baz\nfooBar ::= "1"\nfoo-baz ::= "2"', "12", "1"),
        ('root ::= "a" root | ""', "aaa", "b"),
        ('root ::= "start:" "x"', "start:x", "start"),
    ],
)
def test_gbnf(text, good, bad):
    assert allows(grammar(text), good, bad) == [True, False]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('start: "a" | b\nb: /[0-9]+/', "42", "x"),
        ('?start: sum\nsum: NUMBER ("+" NUMBER)*\nNUMBER: /[0-9]+/\n%ignore " "', "1 + 2", "1 +"),
        ('start: %json {"type": "integer"} ";"', "12;", "x;"),
        ('// it begins here\nstart: "ä"i "/"', "Ä/", "a/"),
        ('start: name "::=" name\nname: /[a-z]/', "a::=b", "a=b"),
    ],
)
def test_lark_begins_at_start(text, good, bad):
    assert allows(grammar(text), good, bad) == [True, False]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("root ::= ", "'root'|no text|ends"),
        ('rot ::= "a"', "No 'root' rule"),
        ("root ::= a", "Rule 'a' not found"),
        ('root ::= "a', "end of input"),
        (r'root ::= "\q"', "escape"),
        (r'root ::= "\ud800"', "no character"),
        ('strt: "a"', "no start rule"),
        ("start: a", "unknown name"),
        ("start: /(/", "unclosed group"),
        ("start", "Expected token"),
        ('start: %json {"uniqueItems": true}', "uniqueItems"),
        ("start: @other", "unknown grammar"),
        ("# nothing but a comment", "no start rule"),
        ("x" * (1 << 20) + "\n", "larger than"),
    ],
)
def test_a_grammar_that_is_none_is_refused(text, reason):
    if text == "root ::= ":  # an empty rule is the empty answer
        assert allows(grammar(text), "", "a") == [True, False]
        return
    with pytest.raises(InvalidParameter, match=reason) as caught:
        matcher_of(grammar(text))
    assert caught.value.param == "structured_outputs" and len(str(caught.value)) < 700


CHOICES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), min_size=1, max_size=8)


@settings(deadline=None)
@given(CHOICES, st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
def test_a_choice_is_one_of_its_texts_byte_for_byte(texts, other):
    matcher = matcher_of(TextChoice(tuple(texts)))
    assert all(accepts(matcher, text) for text in texts)
    assert accepts(matcher, other) == (other in texts)


def test_a_choice_may_be_empty():
    matcher = matcher_of(StructuredOutputs(choice=("", "yes")))
    assert allowed(matcher) == {EOS, ord("y")} and accepts(matcher, "") and accepts(matcher, "yes")
    assert allowed(matcher_of(StructuredOutputs(choice=("",)))) == {EOS}


@pytest.mark.parametrize("asked", [{"choice": ("\ud800",)}, {"regex": "\ud800"}, {"grammar": 'start: "\ud800"'}])
def test_half_a_character_is_no_text(asked):
    with pytest.raises(InvalidParameter, match="surrogate"):
        matcher_of(StructuredOutputs(**asked))


def test_twenty_thousand_choices_compile():
    texts = tuple(f"choice {number * 7919 % 20011}" for number in range(20_000))
    matcher = matcher_of(TextChoice(texts))
    assert all(accepts(matcher, text) for text in texts[::1000]) and not accepts(matcher, "choice 99999")


def test_a_json_object_is_any_object_and_nothing_else():
    compact = StructuredOutputs(json_object=True, disable_any_whitespace=True)
    nested = json.dumps({"a": [1, {"b": None}], "": "é"}, separators=(",", ":"), ensure_ascii=False)
    assert allows(compact, "{}", nested, "[]", "1", '{"a": 1}') == [True, True, False, False, False]
    assert allows(StructuredOutputs(json_object=True), '{"a": 1}', '{\n  "a": 1\n}') == [True, True]


def test_when_nothing_more_can_follow_only_the_end_may():
    matcher = matcher_of(StructuredOutputs(json_object=True))
    assert matcher.consume_tokens(list(b"{}"))
    assert allowed(matcher) == {EOS}
