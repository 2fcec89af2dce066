"""A GrammarTokenizer in which every byte is a token, and helpers to run matchers byte by byte."""

from functools import cache

import numpy as np
from llguidance import LLMatcher

from jaxserve.structured.grammar_expr import GrammarExpr
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured.sandboxed_compile import PARSER_LIMITS, write_valid_grammar

SPECIAL_TOKENS = {"<eos>": 256, "<call>": 257, "</call>": 258}
SIZE = 290  # as wide as logits may be: more than there are tokens
EOS = 256


@cache
def byte_tokenizer() -> GrammarTokenizer:
    """A tokenizer of 256 bytes and the special tokens."""
    tokens = [bytes([byte]) for byte in range(256)] + [text.encode() for text in SPECIAL_TOKENS]
    return GrammarTokenizer(tokens, SPECIAL_TOKENS, [EOS], SIZE)


def matcher_of(expr: GrammarExpr) -> LLMatcher:
    """A matcher at the beginning of an expression, compiled in this process. Raises InvalidParameter."""
    text = write_valid_grammar(expr, SPECIAL_TOKENS, "structured_outputs")
    matcher = LLMatcher(byte_tokenizer().get_ll_tokenizer(), text, log_level=0, limits=PARSER_LIMITS)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def allowed(matcher: LLMatcher) -> set[int]:
    """The ids that the matcher allows next."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def ids_of(text: str) -> list[int]:
    """The ids of a text: special tokens for their texts, and bytes."""
    for special in SPECIAL_TOKENS:
        head, separator, tail = text.partition(special)
        if separator:
            return [*ids_of(head), SPECIAL_TOKENS[special], *ids_of(tail)]
    return list(text.encode("utf-8", "surrogatepass"))


def accepts(matcher: LLMatcher, text: str | list[int]) -> bool:
    """Whether a text, or a list of ids, is a complete output. The matcher keeps its state."""
    ids = list(text.encode()) if isinstance(text, str) else text
    copy = matcher.deep_copy()
    return copy.try_consume_tokens(ids) == len(ids) and copy.is_accepting()
