"""Grammars over small vocabularies, some of whose tokens are longer than a byte, and a reasoning that counts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from llguidance import TokenizerWrapper as Wrapper

TINY = 272  # tokens in the vocabulary of scripts/make_tiny_model
LONGER = (b'{"', b'":', b'",', b'"}', b"ab", b"ba", b"aba", b"true", b"fal", b"se", b"12", b"00", b", ", b"} ", b"a}")


def tokens_of(vocab_size: int, ends: Sequence[int]) -> list[bytes]:
    """Every letter, digit and sign that fits, from id 0 on, then longer pieces; the rest are bytes that no text has."""
    signs = list(range(128)) if vocab_size >= 160 else [*b'~^abcdef0123456789{}":,-. tru']
    found = [bytes([sign]) for sign in signs] + list(LONGER)
    found += [b"\xfe%d" % at for at in range(len(found), vocab_size)]
    return [b"\xff<%d>" % at if at in ends else text for at, text in enumerate(found[:vocab_size])]


class _Tokens:
    bos_token_id = None

    def __init__(self, tokens: list[bytes], ends: Sequence[int]) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, list(ends), ends[0]

    def __call__(self, text: bytes) -> list[int]:
        raise NotImplementedError("nothing is forced, so nothing is tokenized")


@cache
def tokenizer(vocab_size: int, ends: tuple[int, ...]) -> LLTokenizer:
    return LLTokenizer(Wrapper(_Tokens(tokens_of(vocab_size, ends), ends)), eos_token=list(ends))


class SmallGrammar:
    """A compiled grammar in Lark, any tokenization of its sentences allowed. ends: the vocabulary's end tokens."""

    param = "structured_outputs"

    def __init__(self, text: str, vocab_size: int = TINY, ends: tuple[int, ...] = (3,)) -> None:
        self.text = text
        whole = LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\n{text}')
        self._first = LLMatcher(tokenizer(vocab_size, ends), whole, log_level=0)
        assert not self._first.is_error(), self._first.get_error()

    def new_matcher(self, *, with_new_lexer: bool = False) -> LLMatcher:
        return self._first.deep_copy()

    def __repr__(self) -> str:
        return f"SmallGrammar({self.text[:60]})"


def regex(pattern: str, *vocabulary: Any) -> SmallGrammar:
    return SmallGrammar(f"start: /{pattern}/", *vocabulary)


def schema(value: object, *vocabulary: Any) -> SmallGrammar:
    return SmallGrammar(f"start: %json {json.dumps(value)}", *vocabulary)


@dataclass(frozen=True)
class UntilToken:
    """A reasoning that ends with the first of some tokens, and begins behind the first of others, if there are any."""

    last: frozenset[int]
    opening: frozenset[int] = frozenset()

    @property
    def is_inside(self) -> bool:
        return not self.opening

    def advance(self, token_id: int) -> "UntilToken | None":
        if token_id in self.last:
            return None
        return UntilToken(self.last) if token_id in self.opening else self


@dataclass(frozen=True)
class SumCursor:
    """A stop cursor that ends an output when the sum of its tokens is a multiple of a number."""

    divisor: int
    total: int = 0

    def advance(self, token_id: int) -> "tuple[SumCursor, str | None]":
        total = self.total + token_id
        return SumCursor(self.divisor, total), None if total % self.divisor else f"={total}"


class LiveTrackers:
    """A TrackerFactory for requests that hold grammar and reasoning themselves, and a divisor as their stop string."""

    def get_grammar(self, grammar: Any) -> Any:
        return grammar

    def start_reasoning(self, reasoning: Any) -> Any:
        return reasoning

    def start_stop_cursor(self, request: Any) -> SumCursor:
        return SumCursor(int(request.params.stop[0]))


TRACKERS = LiveTrackers()
