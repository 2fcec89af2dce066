"""A guide's masks, compared with lists of all texts of small languages."""

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLParserLimits

from jaxserve.structured.guide import Guide
from tests.grammars import SmallGrammar, UntilToken, regex, schema, tokenizer, tokens_of

VOCAB, EOS, ALSO = 200, 3, 5
ENDS = (EOS, ALSO)
TOKENS = tokens_of(VOCAB, ENDS)
THINKING = UntilToken(frozenset([10]))


def bitmap(ids):
    bits = np.zeros(224, bool)
    bits[list(ids)] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)


def new_guide(grammar=None, ends=ENDS, **options):
    return Guide(grammar, bitmap(ends), **options)


def ids(mask_M):
    """The ids that a mask allows; None: all. Bits beyond the vocabulary are ignored."""
    if mask_M is None:
        return None
    return {*np.flatnonzero(np.unpackbits(mask_M.view(np.uint8), bitorder="little", count=VOCAB)).tolist()}


def spell(text):
    """Single-byte tokens."""
    return [TOKENS.index(bytes([sign])) for sign in text.encode()]


def after(guide, *tokens):
    """The guide, advanced by tokens that its masks allow."""
    for token in tokens:
        allowed = ids(guide.mask())
        assert allowed is None or token in allowed, (token, allowed)
        guide.accept(token)
    return guide


LANGUAGES = {
    "a?ba*": ["a" * i + "b" + "a" * j for i, j in product(range(2), range(7))],
    "(ab|ba|1){0,3}": ["".join(words) for num in range(4) for words in product(("ab", "ba", "1"), repeat=num)],
    "true|false|": ["true", "false", ""],
    '\\{"[ab]{1,2}":(true|12|00)\\}': [
        f'{{"{"".join(key)}":{value}}}'
        for num in (1, 2)
        for key in product("ab", repeat=num)
        for value in ("true", "12", "00")
    ],
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(pattern=st.sampled_from(list(LANGUAGES)), data=st.data())
def test_any_tokens_that_spell_a_beginning_are_allowed_and_ends_where_a_sentence_is_whole(pattern, data):
    """Tokens of several bytes, too, however they lie across the grammar's parts; nothing else."""
    language, guide, prefix = LANGUAGES[pattern], new_guide(regex(pattern, VOCAB, ENDS)), b""
    reach = 7 if "*" in pattern else 99  # as far as the list goes
    while True:
        beginnings = [sentence.encode() for sentence in language if sentence.encode().startswith(prefix)]
        near = {token for token, text in enumerate(TOKENS) if token not in ENDS and len(prefix + text) <= reach}
        following = {token for token in near if any(text.startswith(prefix + TOKENS[token]) for text in beginnings)}
        is_whole = prefix in beginnings
        assert ids(guide.mask()) & (near | set(ENDS)) == following | (set(ENDS) if is_whole else set()), prefix
        if not following:
            assert guide.is_complete or reach == 7
            break
        assert not guide.is_complete
        token = data.draw(st.sampled_from(sorted(following)))
        guide.accept(token)
        prefix += TOKENS[token]


def test_ends_stand_alone_where_nothing_else_is_possible():
    guide = after(new_guide(regex("ab", VOCAB, ENDS)), *spell("a"))
    assert not set(ENDS) & ids(guide.mask()) and not guide.is_complete
    assert ids(after(guide, *spell("b")).mask()) == set(ENDS)
    assert guide.is_complete
    guide.accept(EOS)
    assert guide.is_unconstrained and guide.mask() is None


def test_an_empty_grammar_ends_at_once():
    assert ids(new_guide(regex("", VOCAB, ENDS)).mask()) == set(ENDS)


def test_a_stop_token_is_allowed_where_the_grammar_may_end_and_not_where_its_text_would_match():
    brace, both = TOKENS.index(b"}"), TOKENS.index(b'"}')
    stops = (*ENDS, brace, both)
    guide = new_guide(regex('\\{"a"\\}?', VOCAB, ENDS), stops)
    after(guide, *spell('{"a'))
    assert ids(guide.mask()) == set(spell('"'))
    assert ids(after(guide, *spell('"')).mask()) == set(stops)
    assert after(guide, brace).is_unconstrained


def test_a_stop_token_without_which_the_grammar_cannot_end_leaves_nothing():
    guide = after(new_guide(regex("ab?}", VOCAB, ENDS), (*ENDS, *spell("}"))), *spell("ab"))
    assert ids(guide.mask()) == set()


@pytest.mark.parametrize("text", ["ab", "12"])
def test_what_goes_on_is_free_when_nothing_else_of_the_grammar_is_possible(text):
    guide = new_guide(regex("ab|12(34)?", VOCAB, ENDS), continues_after_grammar=True)
    after(guide, *spell(text))
    if text == "ab":
        assert guide.mask() is None and guide.is_unconstrained
    else:  # it may go on, so whether it has ended is seen by an end token
        assert ids(guide.mask()) == {*spell("3"), *ENDS}
        assert after(guide, EOS).is_unconstrained
    assert ids(after(guide, EOS, *spell("x")).mask()) is None


def test_a_copy_and_its_original_are_independent():
    guide = after(new_guide(regex("(ab|12)+", VOCAB, ENDS)), *spell("ab"))
    other = guide.copy()
    after(guide, *spell("1"))
    after(other, *spell("a"))
    assert (ids(guide.mask()), ids(other.mask())) == ({*spell("2")}, {*spell("b"), TOKENS.index(b"ba")})


def test_a_grammar_that_was_not_begun_is_copied_too():
    guide = new_guide(regex("ab", VOCAB, ENDS))
    other = guide.copy()
    assert ids(after(guide, *spell("a")).mask()) != ids(other.mask())


def test_each_mask_is_a_new_array():
    guide = new_guide(regex("ab", VOCAB, ENDS))
    first = guide.mask()
    first[:] = 0
    assert ids(guide.mask()) == {*spell("a"), TOKENS.index(b"ab")}


class TestThinking:
    def test_all_but_an_end_is_allowed_until_it_ends_and_then_the_grammar(self):
        guide = after(new_guide(regex("ab", VOCAB, ENDS), reasoning_state=THINKING), 7, 99, 150)
        assert ids(guide.mask()) == set(range(VOCAB)) - set(ENDS) and not guide.is_unconstrained
        assert ids(after(guide, 10).mask()) == {*spell("a"), TOKENS.index(b"ab")}

    @pytest.mark.parametrize("budget", [0, 1, 3])
    @pytest.mark.parametrize("has_grammar", [False, True])
    def test_a_budget_is_so_many_tokens_and_then_the_end_is_forced(self, budget, has_grammar):
        grammar = regex("ab", VOCAB, ENDS) if has_grammar else None
        guide = new_guide(grammar, reasoning_state=THINKING, thinking_budget=budget, reasoning_end_ids=(40, 10, 33))
        for token in range(50, 50 + budget):
            assert ids(guide.mask()) == (set(range(VOCAB)) - set(ENDS) if has_grammar else None)
            guide.accept(token)
        for token in (40, 10, 33):
            assert ids(guide.mask()) == {token} and not guide.is_unconstrained
            guide.accept(token)
        assert ids(guide.mask()) == ({*spell("a"), TOKENS.index(b"ab")} if has_grammar else None)
        assert guide.is_unconstrained is not has_grammar

    def test_reasoning_that_ends_within_its_budget_is_not_forced(self):
        guide = after(new_guide(reasoning_state=THINKING, thinking_budget=3, reasoning_end_ids=(10,)), 50, 51, 10)
        assert guide.is_unconstrained and guide.mask() is None

    @pytest.mark.parametrize("budget", [0, 2])
    def test_what_comes_before_the_reasoning_is_not_counted(self, budget):
        thinking = UntilToken(frozenset([10]), frozenset([20]))
        guide = after(
            new_guide(reasoning_state=thinking, thinking_budget=budget, reasoning_end_ids=(10,)), 50, 51, 52, 20
        )
        for token in range(60, 60 + budget):
            assert guide.mask() is None
            guide.accept(token)
        assert ids(guide.mask()) == {10}
        assert after(guide, 10).is_unconstrained

    def test_the_budget_counts_only_within_the_reasoning(self):
        guide = new_guide(
            reasoning_state=UntilToken(frozenset([10]), frozenset([20])), thinking_budget=0, reasoning_end_ids=(10,)
        )
        assert after(guide, *range(50, 90)).mask() is None
        assert after(guide, 10).is_unconstrained

    def test_a_copy_has_its_own_budget(self):
        guide = after(new_guide(reasoning_state=THINKING, thinking_budget=2, reasoning_end_ids=(10,)), 50)
        other = guide.copy()
        guide.accept(51)
        assert ids(guide.mask()) == {10} and other.mask() is None


def test_without_a_grammar_and_without_reasoning_nothing_is_constrained():
    guide = new_guide()
    assert guide.is_unconstrained and guide.mask() is None
    guide.accept(5)
    assert guide.mask() is None


def test_a_token_that_the_grammar_does_not_know_is_an_error_and_nothing_is_allowed_any_more():
    guide = new_guide(regex("ab", VOCAB, ENDS))
    guide.accept(spell("1")[0])
    assert guide.error
    assert ids(guide.mask()) == set()
    assert not guide.is_complete
    guide.accept(spell("a")[0])
    assert ids(guide.mask()) == set()


@pytest.mark.parametrize("token_id", [-1, -2, -221, 224, 10**9])
def test_what_is_no_token_never_reaches_the_grammar(token_id):
    """A row for which nothing could be sampled has a negative id, and -221 is not the end token 3."""
    guide = new_guide(regex("ab", VOCAB, ENDS))
    matcher = after(guide, *spell("a"))._matcher
    guide.accept(token_id)
    assert "no token" in guide.error and ids(guide.mask()) == set()
    assert not matcher.is_error() and matcher.consume_token(spell("b")[0])


def test_a_grammar_that_was_broken_from_the_start_is_an_error_too():
    class Broken:
        def new_matcher(self):
            matcher = regex("ab", VOCAB, ENDS).new_matcher()
            matcher.consume_token(1)
            return matcher

    guide = new_guide(Broken())
    assert ids(guide.mask()) == set() and guide.error


class SmallLexer:
    """A grammar whose lexer has room for the states of two answers."""

    def __init__(self):
        self.made = 0
        self._first = self._make()

    def _make(self):
        self.made += 1
        grammar = LLMatcher.grammar_from_lark('%llguidance {"no_forcing": true}\nstart: /a{0,90}|b{0,90}|c{0,90}/')
        limits = LLParserLimits(max_lexer_states=200, precompute_large_lexemes=False)
        return LLMatcher(tokenizer(VOCAB, ENDS), grammar, log_level=0, limits=limits)

    def new_matcher(self, *, with_new_lexer=False):
        self._first = self._make() if with_new_lexer else self._first
        return self._first.deep_copy()


def test_answers_that_fill_the_lexer_of_their_grammar_go_on_with_a_new_one():
    grammar = SmallLexer()
    first = after(new_guide(grammar), *spell("a"))
    for letter in "abcb":
        answer = new_guide(grammar)
        for _ in range(90):
            after(answer.copy(), *spell(letter))
            after(answer, *spell(letter))
        assert ids(answer.mask()) == set(ENDS) and answer.error is None
    assert grammar.made == 2
    assert ids(after(first.copy(), *spell("a" * 89)).mask()) == set(ENDS)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), which=st.integers(0, 2))
def test_whatever_is_drawn_from_the_masks_is_in_the_language(seed, which):
    rng = np.random.default_rng(seed)
    pattern = "(ab|ba){1,4}(, (true|false)){0,2}"
    grammars = (
        regex(pattern, VOCAB, ENDS),
        SmallGrammar('start: pair{1,4} (", " word){0,2}\npair: "ab" | "ba"\nword: "true" | "false"', VOCAB, ENDS),
        schema({"enum": ["ab", "aba", "abab"]}, VOCAB, ENDS),
    )
    guide, prefix = new_guide(grammars[which]), b""
    for _ in range(60):
        token = int(rng.choice(sorted(ids(guide.mask()))))
        guide.accept(token)
        if token in ENDS:
            break
        prefix += TOKENS[token]
    assert re.fullmatch(pattern if which < 2 else '"(ab|aba|abab)"', prefix.decode()), prefix
    assert guide.is_unconstrained
