"""The model's tokens in masks: every tokenization of a text, no special token for text, no padding."""

import json

import pytest

from jaxserve.errors import Unsupported
from jaxserve.structured.compiler import GrammarCompiler
from jaxserve.structured.grammar_expr import FreeText, SequenceExpr, TextChoice, TextLiteral, TokenLiteral
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured_outputs import StructuredOutputs
from tests.structured.byte_tokenizer import allowed

TOKENS = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"<eos>", b"<end>", b"<tool>", b"", b"\xc3", b"\xa9", b"\xff", b"c!"]
EOS, END, TOOL, EMPTY, HIGH, LOW, INVALID, BEYOND = 6, 7, 8, 9, 10, 11, 12, 13
SPECIAL = {"<eos>": EOS, "<end>": END, "<tool>": TOOL}
SIZE = 40


@pytest.fixture(scope="module")
def compiler():
    compiler = GrammarCompiler(GrammarTokenizer(TOKENS, SPECIAL, [EOS, END], SIZE))
    yield compiler
    compiler.close()


def test_it_is_as_wide_as_the_logits(compiler):
    matcher = compiler.compile(FreeText()).new_matcher()
    assert len(matcher.compute_bitmask()) * 8 >= SIZE
    assert GrammarTokenizer(TOKENS, SPECIAL, [EOS], SIZE).get_ll_tokenizer().vocab_size == SIZE
    assert GrammarTokenizer(TOKENS, SPECIAL, [EOS], len(TOKENS) - 2).get_ll_tokenizer().vocab_size == len(TOKENS) - 2


def test_free_text_is_every_ordinary_token_and_the_end(compiler):
    matcher = compiler.compile(FreeText()).new_matcher()
    assert allowed(matcher) == {0, 1, 2, 3, 4, 5, HIGH, BEYOND, EOS, END}  # no half characters, no padding, no <tool>
    assert matcher.consume_token(HIGH) and allowed(matcher) == {LOW}


def test_every_tokenization_of_a_text_is_allowed(compiler):
    matcher = compiler.compile(TextChoice(("abc",))).new_matcher()
    assert allowed(matcher) == {0, 3, 5}
    assert matcher.consume_token(0) and allowed(matcher) == {1, 4}
    assert matcher.consume_token(4) and allowed(matcher) == {EOS, END}


def test_a_token_may_span_the_border_of_two_parts(compiler):
    matcher = compiler.compile(SequenceExpr((TextChoice(("a",)), TextChoice(("b", "c"))))).new_matcher()
    assert allowed(matcher) == {0, 3}


def test_special_tokens_are_met_by_name_or_id_alone(compiler):
    assert allowed(compiler.compile(TextLiteral("<tool>a")).new_matcher()) == {TOOL}
    assert allowed(compiler.compile(TokenLiteral(TOOL)).new_matcher()) == {TOOL}
    assert allowed(compiler.compile(TokenLiteral(EMPTY)).new_matcher()) == {EMPTY}
    matcher = compiler.compile(SequenceExpr((FreeText(("<tool>",)), TextLiteral("<tool>a")))).new_matcher()
    assert TOOL in allowed(matcher) and EOS not in allowed(matcher)


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [(GrammarTokenizer(None, {}, [0], 10), "bytes of their own"), (GrammarTokenizer([b"a"], {}, [], 10), "end token")],
)
def test_what_has_no_bytes_or_no_end_is_refused(tokenizer, reason):
    compiler = GrammarCompiler(tokenizer)
    for _ in range(2):
        with pytest.raises(Unsupported, match=reason):
            compiler.compile(StructuredOutputs(json_object=True))


def test_the_ll_tokenizer_is_made_once():
    tokenizer = GrammarTokenizer(TOKENS, SPECIAL, [EOS], SIZE)
    assert tokenizer.get_ll_tokenizer() is tokenizer.get_ll_tokenizer()


def test_another_process_makes_an_equal_one():
    tokenizer = GrammarTokenizer(TOKENS, SPECIAL, [EOS, END], SIZE)
    other = GrammarTokenizer.from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert other.to_json() == tokenizer.to_json()
    ours, theirs = tokenizer.get_ll_tokenizer(), other.get_ll_tokenizer()
    assert (ours.vocab_size, ours.eos_tokens) == (theirs.vocab_size, theirs.eos_tokens)
    assert [theirs.decode_bytes([token_id]) for token_id in range(len(TOKENS))] == [
        ours.decode_bytes([token_id]) for token_id in range(len(TOKENS))
    ]
