"""Random outputs that a grammar over single bytes allows."""

import random

from llguidance import LLMatcher

from tests.structured.byte_tokenizer import EOS, allowed

CLOSING = '"}])<|,;0O\n'


def walk(matcher: LLMatcher, rng: random.Random, most: int = 1500) -> str | None:
    """Return one answer; None if it has no end after `most` bytes. What closes something is chosen more often."""
    matcher, answer = matcher.deep_copy(), bytearray()
    while len(answer) < most:
        ids = allowed(matcher)
        if EOS in ids and (len(ids) == 1 or rng.random() < 0.4):
            return answer.decode(errors="replace")
        plain = [id for id in ids if 32 <= id < 127 or id == 10] or [id for id in ids if id < 256]
        letters = [id for id in ids if 127 < id < 256]
        plain += letters if len(letters) < 3 else []
        closing = [id for id in plain if chr(id) in CLOSING] or plain
        taken = rng.choice(closing if rng.random() < 0.6 else plain)
        assert matcher.consume_token(taken)
        answer.append(taken)
    return None
