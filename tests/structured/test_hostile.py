"""Hostile constraints compile to a grammar whose steps are bounded, or are refused, and later requests are served.

The limits are tight here so that no test waits for long: what takes longer is a refusal, not a failure.
"""

import random

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.structured.compiler import GrammarCompiler
from jaxserve.structured_outputs import StructuredOutputs
from jaxserve.workers.pool import MIB
from tests.structured.byte_tokenizer import EOS, accepts, allowed, byte_tokenizer
from tests.structured.hostile_inputs import HOSTILE

MUST_BE_REFUSED = {
    "regex with many parentheses",
    "schema of 500 references in a circle",
    "schema of 5000 properties",
    "schema of ten times 300 properties",
    "schema of 5^20 options",
    "schema 3000 levels deep",
    "schema that is its own option",
    "lark that is nothing",
    "lark with many parentheses",
    "gbnf with many parentheses",
    "structural tag 9000 levels deep",
    "whitespace that explodes",
}
MUST_COMPILE = {"choice of 20 000", "schema 31 levels deep", "schema of a 20 000-way enum", "regex with huge repeats"}
MUST_COMPILE |= {"structural tag 70 levels deep", "gbnf that is ambiguous", "schema that grows by itself"}


@pytest.fixture(scope="module")
def compiler():
    compiler = GrammarCompiler(byte_tokenizer(), timeout_s=2.0, memory_bytes=512 * MIB)
    yield compiler
    compiler.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_constraint_is_compiled_or_refused(compiler, name):
    try:
        grammar = compiler.compile(HOSTILE[name], "response_format")
    except InvalidParameter as error:
        assert error.param == "response_format" and str(error).startswith("response_format")
        assert len(str(error)) < 1000
        assert name not in MUST_COMPILE, str(error)
    else:
        assert name not in MUST_BE_REFUSED
        follow(grammar.new_matcher())
    matcher = compiler.compile(StructuredOutputs(regex=f"[{len(name)}]+")).new_matcher()
    assert not accepts(matcher, "x")


def follow(matcher):
    """Some steps of an answer: each has a mask, or is the end of this one answer alone."""
    rng = random.Random(0)
    for _ in range(50):
        choices = sorted(allowed(matcher))
        if matcher.is_error():
            return
        token = rng.choice(choices)
        assert matcher.consume_token(token)
        if token == EOS:
            return


def test_a_killed_worker_refuses_this_grammar_alone():
    compiler = GrammarCompiler(byte_tokenizer(), timeout_s=2.0)
    try:
        for _ in range(2):
            with pytest.raises(InvalidParameter, match="too complex a grammar: it "):
                compiler.compile(HOSTILE["schema of 5^20 options"])
        assert (compiler.num_restarts, compiler.num_cached) == (2, 0)  # with less load on the machine it might do
        assert accepts(compiler.compile(StructuredOutputs(regex="a+")).new_matcher(), "aa")
    finally:
        compiler.close()


def test_memory_is_limited():
    compiler = GrammarCompiler(byte_tokenizer(), timeout_s=20.0, memory_bytes=64 * MIB)
    try:
        with pytest.raises(InvalidParameter, match="too complex a grammar"):
            compiler.compile(StructuredOutputs(choice=tuple("x" * (i << 16) for i in range(16))))
    finally:
        compiler.close()
