"""ReasoningState: follow the reasoning section of an output token by token.

A grammar and a thinking budget must know at which token the reasoning ends, before any text is parsed. A state never
changes: `advance` returns another one, at the same cost for every token. Special tokens that are markers are seen as
the output parser sees them, as private-use characters; other special tokens have no bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxserve.text.dialect import ReasoningDialect
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.tokenizer import Tokenizer

_MAX_HEADER_BYTES = 64


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


@dataclass(frozen=True, slots=True)
class HarmonyReasoning:
    """The state in harmony messages: the reasoning ends where a message begins that is not on the analysis channel.

    vocabulary   The tokens' bytes.
    dialect      The markers of the messages.
    header       The bytes so far of a message's header; None: inside a message.
    """

    vocabulary: EscapedVocabulary
    dialect: HarmonyDialect
    header: bytes | None = b""

    @property
    def is_inside(self) -> bool:
        """Whether the next token is part of a reasoning message."""
        return self.header is None

    def advance(self, token_id: int) -> "HarmonyReasoning | None":
        """Return the state after this token; None: the reasoning has ended."""
        text, dialect = self.vocabulary.token_bytes(token_id), self.dialect
        if self.header is None:
            return replace(self, header=b"") if text.decode("utf-8", "replace") in dialect.ends else self
        if text == dialect.message.encode():
            channel = self.header.rpartition(dialect.channel.encode())[2].strip()
            return replace(self, header=None) if channel.startswith(b"analysis") else None
        return replace(self, header=(self.header + text)[-_MAX_HEADER_BYTES:])


ReasoningState = InsideReasoning | BeforeReasoning | HarmonyReasoning


def create_initial_state(
    dialect: ReasoningDialect | HarmonyDialect, vocabulary: EscapedVocabulary, *, inside: bool, is_constrained: bool
) -> ReasoningState:
    """Return the state before the first token of an output.

    dialect          The dialect with the characters of `vocabulary` for its special tokens.
    vocabulary       The tokens' bytes.
    inside           The output begins in a section, which the prompt has opened or the model need not open.
    is_constrained   A grammar holds after the reasoning. Calls that the model begins inside a section do not end it
                     then, since their first marker would be missing where the grammar begins.
    """
    if isinstance(dialect, HarmonyDialect):
        return HarmonyReasoning(vocabulary, dialect)
    closing = dialect.close if is_constrained else (*dialect.close, *dialect.call_starts)
    section = InsideReasoning(vocabulary, _strip_and_encode(closing))
    return section if inside else BeforeReasoning(section, _strip_and_encode(dialect.open))


def encode_reasoning_end(dialect: ReasoningDialect | HarmonyDialect, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the tokens that end a section, which are forced when a thinking budget is used up.

    dialect: with its special tokens as texts, not as private-use characters.
    """
    if isinstance(dialect, HarmonyDialect):
        marker = f"{dialect.ends[0]}{dialect.start}assistant{dialect.channel}final{dialect.message}"
    else:
        marker = dialect.close[0]
    return tuple(tokenizer.encode(marker, add_special_tokens=False))


def _strip_and_encode(markers: tuple[str, ...]) -> tuple[bytes, ...]:
    """Encode markers without the whitespace at their ends, which is free."""
    return tuple(marker.strip().encode() for marker in markers)
