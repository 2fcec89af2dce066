"""ReasoningState: follow the reasoning section of an output token by token.

A grammar and a thinking budget must know at which token the reasoning ends, before any text is parsed. A state never
changes: `advance` returns another one, at the same cost for every token. Special tokens that are markers are seen as
the output parser sees them, as private-use characters; other special tokens have no bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from jaxserve.text.tokenizer import Tokenizer


class ReasoningState(Protocol):
    """A state within the reasoning of an output, or before it."""

    @property
    def is_inside(self) -> bool:
        """Whether the next token is part of the reasoning."""
        ...

    def advance(self, token_id: int) -> "ReasoningState | None":
        """Return the state after this token; None: the reasoning has ended, or there is none."""
        ...


@dataclass(frozen=True, slots=True)
class EscapedVocabulary:
    """The tokens' bytes in the text that the output parser reads.

    tokenizer        The tokenizer of the model.
    control_tokens   Special tokens that are markers, by id, as OutputDialect has them.
    """

    tokenizer: Tokenizer
    control_tokens: Mapping[int, str]

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to the text."""
        if token_id in self.control_tokens:
            return self.control_tokens[token_id].encode()
        if token_id in self.tokenizer.special_ids:
            return b""
        own_bytes = self.tokenizer.token_bytes(token_id)
        return self.tokenizer.decode([token_id]).encode() if own_bytes is None else own_bytes


@dataclass(frozen=True, slots=True)
class InsideReasoning:
    """The state inside a section, which the first of some markers ends, however the marker is tokenized.

    vocabulary   The tokens' bytes.
    markers      The markers that end the section.
    tail         The last bytes so far, in which a marker may have begun.
    """

    vocabulary: EscapedVocabulary
    markers: tuple[bytes, ...]
    tail: bytes = b""

    @property
    def is_inside(self) -> bool:
        """Whether the section has begun."""
        return True

    def advance(self, token_id: int) -> "InsideReasoning | None":
        """Return the state after this token; None: the reasoning has ended."""
        text = self.tail + self.vocabulary.token_bytes(token_id)
        if any(marker in text for marker in self.markers):
            return None
        max_tail_bytes = max(map(len, self.markers)) - 1
        return replace(self, tail=text[max(0, len(text) - max_tail_bytes) :])


@dataclass(frozen=True, slots=True)
class BeforeReasoning:
    """The state at the beginning of an output that may open a section: its first text after whitespace decides.

    inside    The state after an opener.
    openers   The markers that open a section.
    text      The bytes so far, a beginning of an opener.
    """

    inside: InsideReasoning
    openers: tuple[bytes, ...]
    text: bytes = b""

    @property
    def is_inside(self) -> bool:
        """Whether the section has begun."""
        return False

    def advance(self, token_id: int) -> "BeforeReasoning | InsideReasoning | None":
        """Return the state after this token; None: there is no reasoning."""
        text = (self.text + self.inside.vocabulary.token_bytes(token_id)).lstrip()
        if text.startswith(self.openers):
            return self.inside
        return replace(self, text=text) if any(opener.startswith(text) for opener in self.openers) else None
