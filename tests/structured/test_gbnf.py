"""Grammars in GBNF derive exactly what their notation means, however the text is split into lexemes."""

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxserve.errors import InvalidParameter
from jaxserve.structured import lexemes
from jaxserve.structured.gbnf import MAX_REPETITIONS, ROOT, parse_gbnf
from jaxserve.structured.lexemes import LexemeSplit
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import EOS, accepts, allowed, matcher_of
from tests.structured.gbnf_examples import EXAMPLES, JSON
from tests.structured.gbnf_oracle import Recognizer


def matcher_for(text):
    return matcher_of(StructuredOutputs(grammar=text))


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_derives_its_texts_and_no_others(name):
    grammar, good, bad = EXAMPLES[name]
    matcher = matcher_for(grammar)
    assert [text for text in good if not accepts(matcher, text)] == []
    assert [text for text in bad if accepts(matcher, text)] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_answer_may_end_where_a_text_of_the_grammar_ends_and_only_there(name):
    grammar, good, _ = EXAMPLES[name]
    rules = parse_gbnf(grammar)
    for text in (text for text in good if len(text) <= 30):  # the definition takes its time
        place = matcher_for(grammar)
        for end in range(len(text) + 1):
            assert (EOS in allowed(place)) == Recognizer(rules, text[:end]).accepts(), (name, text[:end])
            assert place.consume_tokens(list(text[end : end + 1].encode()))


ATOMS = ['"a"', '"b"', '"ab"', '"ba"', '""', '"é"', '"aé"', "[ab]", "[éa]", "[^a]", ".", "root", "x", "y"]
COUNTS = ["*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}"]
PRODUCTIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(" ".join),
        st.lists(inner, min_size=2, max_size=2).map(lambda options: f"({' | '.join(options)})"),
        st.builds("({}){}".format, inner, st.sampled_from(COUNTS)),
    ),
    max_leaves=8,
)
GRAMMARS = st.builds("root ::= {}\nx ::= {}\ny ::= {}".format, PRODUCTIONS, PRODUCTIONS, PRODUCTIONS)


def rules_of(grammar):
    try:
        return parse_gbnf(grammar)
    except InvalidParameter as error:
        assert "derives no finite text" in str(error)
        assume(False)


@settings(deadline=None, max_examples=150)
@given(GRAMMARS, st.sampled_from(["ab", "aé", "éè"]), st.booleans())
def test_a_grammar_accepts_what_it_derives_and_every_beginning_of_it(grammar, alphabet, are_chars_alone):
    rules = rules_of(grammar)
    with pytest.MonkeyPatch.context() as patch:
        if are_chars_alone:  # as in grammars that are too large to look for longer lexemes
            patch.setattr(lexemes, "MAX_WORK", -1)
        matcher = matcher_for(grammar)
    for size in range(5):
        for text in map("".join, itertools.product(alphabet, repeat=size)):
            place, ids, expected = matcher.deep_copy(), list(text.encode()), Recognizer(rules, text)
            assert (place.try_consume_tokens(ids) == len(ids)) == expected.is_prefix(), text
            assert not expected.is_prefix() or place.is_accepting() == expected.accepts(), text


def test_only_what_cannot_be_lexed_is_cut():
    """A mask of lexemes as long as strings costs 10 to 50 times less than one of single characters."""
    rules = parse_gbnf(JSON)
    split = LexemeSplit(rules, ROOT)
    assert {name for name in rules if split.is_lexeme(rules[name])} == {"text", "number", "blank", "0"}
    flat = parse_gbnf('root ::= [a-z]+ x "a"\nx ::= [a-z]* "b"')
    assert all(LexemeSplit(flat, ROOT).is_lexeme(rule) for rule in flat.values())


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= [^"\\\\] . [\\]^-]', ["a\n]", "ää-", "x\\^"], ['"a]', "aa\\"]),
        (r'root ::= "\u{e9}\/\'" [\-\x41]', ["é/'-", "é/'A"], ["é/'\\"]),
        ('root ::= a b\na ::=\n\n  # nothing\nb ::= "x"\n\n  | "y" "z"\n ?', ["x", "y", "yz"], ["", "z"]),
        ('root ::= a-b a_b aB A-b\na-b ::= "1"\na_b ::= "2"\naB ::= "3"\nA-b ::= "4"', ["1234"], ["1111"]),
        ('root ::= "a"{ 1 , 02 }* "b"{0} "c"{0,0}', ["", "aaa"], ["b", "ab", "c"]),
        ('root ::= "a" | "b" dead\ndead ::= "c" dead', ["a"], ["b", "bc"]),
        ('root ::= root "a" | dead? "b"\ndead ::= "c" dead', ["b", "baa"], ["c", "a"]),
    ],
)
def test_notation(grammar, good, bad):
    matcher = matcher_for(grammar)
    assert [accepts(matcher, text) for text in [*good, *bad]] == [True] * len(good) + [False] * len(bad)


def test_what_cannot_lead_to_an_end_is_not_allowed():
    assert allowed(matcher_for('root ::= "a" | "b" dead\ndead ::= "c" dead')) == {ord("a")}


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('root ::= "a" root', "derives no finite text"),
        ("root ::= [^\\x00-\\U0010ffff]", "derives no finite text"),
        ('root ::= "a"\nroot ::= "b"', "line 2: Rule 'root' is defined twice"),
        ('root ::= "a"\n\n"b" ::= "c"', "line 3: unexpected ':'"),
        ('root ::= * "a"', "nothing before it"),
        ('root ::= "a"{3,2}', "least number of repetitions"),
        (f'root ::= "a"{{{MAX_REPETITIONS + 1}}}', "more than 10000 repetitions"),
        ('root ::= "a"{' + "9" * 5000 + "}", "more than 10000 repetitions"),
        ('root ::= "a")', "without '\\('"),
        ('root ::= ("a"', "Expected '\\)'"),
        ("root ::= []", "a set must not be empty"),
        ("root ::= [z-a]", "the range from 'z' to 'a' is empty"),
        ("root ::= <think>", "tokens .* cannot be named"),
        (r'root ::= "\U00110000"', "is no character"),
        ("root ::= " + "(" * 300 + '"a"' + ")" * 300, "nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(grammar, reason):
    with pytest.raises(InvalidParameter, match=reason):
        matcher_for(grammar)
