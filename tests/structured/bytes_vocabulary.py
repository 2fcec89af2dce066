"""A vocabulary in which every byte is a token, and texts as its ids: matchers are tried byte by byte."""

import numpy as np
from llguidance import LLMatcher

from jaxserve.structured.vocabulary import Vocabulary

SPECIAL_TOKENS = {"<eos>": 256, "<call>": 257, "</call>": 258}
SIZE = 290  # as wide as logits may be: more than there are tokens
EOS = 256


def bytes_vocabulary() -> Vocabulary:
    tokens = [bytes([byte]) for byte in range(256)] + [text.encode() for text in SPECIAL_TOKENS]
    return Vocabulary(tokens, SPECIAL_TOKENS, [EOS], SIZE)


def allowed(matcher: LLMatcher) -> set[int]:
    """The ids that the matcher allows next."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist())


def accepts(matcher: LLMatcher, text: str | bytes | list[int]) -> bool:
    """Whether the whole of it is a complete answer. A list may hold special tokens."""
    ids = list(text.encode() if isinstance(text, str) else text)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
