"""Random outputs: at each step one of the allowed tokens, as a model without any training would sample."""

import random

from llguidance import LLMatcher

from jaxserve.structured.grammar_expr import JsonSchema
from jaxserve.structured.grammar_tokenizer import GrammarTokenizer
from jaxserve.structured.sandboxed_compile import PARSER_LIMITS, write_valid_grammar
from tests.structured.byte_tokenizer import allowed

TEXTS = [
    '{"',
    '":',
    '",',
    '", "',
    '"}',
    "}}",
    "]}",
    "[[",
    "true",
    "ull",
    "abc",
    "12",
    "0.",
    ".5",
    "e-1",
    "\n  ",
    "  ",
    " ",
    "é",
]
TEXTS += ['":"', '\\"', "\\u00", "\\n", "-1", "a", "b", "c", "ab", "@", "://", "😀", "2024-", ":00"]
TOKENS = [bytes([byte]) for byte in range(256)] + [text.encode() for text in TEXTS] + [b"<eos>"]
EOS = len(TOKENS) - 1
VOCABULARY = GrammarTokenizer(TOKENS, {"<eos>": EOS}, [EOS], len(TOKENS) + 5)
CLOSING = frozenset(b'"}]')  # chosen often, so that a walk comes to an end


def matcher_of(schema: str) -> LLMatcher:
    """A matcher at the beginning of a schema's texts. Raises InvalidParameter."""
    text = write_valid_grammar(JsonSchema(schema), {}, "structured_outputs")
    return LLMatcher(VOCABULARY.get_ll_tokenizer(), text, log_level=0, limits=PARSER_LIMITS)


def walk(matcher: LLMatcher, seed: int, max_steps: int = 300) -> str | None:
    """Return a random text; None if it did not end within `max_steps` tokens."""
    rng, written, copy = random.Random(seed), b"", matcher.deep_copy()
    for _ in range(max_steps):
        choices = sorted(allowed(copy))
        assert not copy.is_error(), copy.get_error()
        weights = [30 if token in CLOSING or token == EOS else 3 if token > 255 else 1 for token in choices]
        [token] = rng.choices(choices, weights)
        if token == EOS:
            assert copy.is_accepting()
            return written.decode()
        assert copy.consume_token(token), (written, token, copy.get_error())
        written += TOKENS[token]
    return None
