"""Where the reasoning section of an answer stands, token by token.

A grammar and a budget need to know at which token the reasoning ends, before any text is read. A place never changes:
advancing makes another one, and costs the same for every token. Special tokens that are markers are seen as a reader
sees them, as private-use characters; others are not seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from jaxserve.text.dialect import ReasoningDialect
from jaxserve.text.dialects.harmony import HarmonyDialect
from jaxserve.text.tokenizer import Tokenizer

_MAX_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True)
class EscapedVocabulary:
    """What tokens add to the text that a reader reads, in bytes. controls: as AnswerDialect has them."""

    tokenizer: Tokenizer
    control_tokens: Mapping[int, str]

    def token_bytes(self, token_id: int) -> bytes:
        if token_id in self.control_tokens:
            return self.control_tokens[token_id].encode()
        if token_id in self.tokenizer.special_ids:
            return b""
        own = self.tokenizer.token_bytes(token_id)
        return self.tokenizer.decode([token_id]).encode() if own is None else own


@dataclass(frozen=True, slots=True)
class InsideReasoning:
    """In a section that ends with the first of these markers, however it is cut into tokens.

    tail   the bytes before this place that a marker may begin in
    """

    vocabulary: EscapedVocabulary
    markers: tuple[bytes, ...]
    tail: bytes = b""

    @property
    def is_inside(self) -> bool:
        return True

    def advance(self, token_id: int) -> "InsideReasoning | None":
        text = self.tail + self.vocabulary.token_bytes(token_id)
        if any(marker in text for marker in self.markers):
            return None
        reach = max(map(len, self.markers)) - 1
        return replace(self, tail=text[max(0, len(text) - reach) :])


@dataclass(frozen=True, slots=True)
class BeforeReasoning:
    """At the beginning of an answer that may open a section or not; its first words that are no white space decide.

    text   the bytes so far, a beginning of one of the openers
    """

    inside: InsideReasoning
    openers: tuple[bytes, ...]
    text: bytes = b""

    @property
    def is_inside(self) -> bool:
        return False

    def advance(self, token_id: int) -> "BeforeReasoning | InsideReasoning | None":
        text = (self.text + self.inside.vocabulary.token_bytes(token_id)).lstrip()
        if text.startswith(self.openers):
            return self.inside
        return replace(self, text=text) if any(opener.startswith(text) for opener in self.openers) else None


@dataclass(frozen=True, slots=True)
class HarmonyReasoning:
    """In harmony's messages: the reasoning ends where a message begins that is not on the analysis channel.

    header   what has been read of a message's header; None: inside a message
    """

    vocabulary: EscapedVocabulary
    dialect: HarmonyDialect
    header: bytes | None = b""

    @property
    def is_inside(self) -> bool:
        return self.header is None

    def advance(self, token_id: int) -> "HarmonyReasoning | None":
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
    """The place before the first token of an answer.

    dialect          with the characters of `spelled` for its special tokens
    inside           the answer begins in a section, which the prompt has opened or the model need not open
    is_constrained   a grammar holds for what follows. Calls that the model begins while it thinks then end no section:
                     their first marker would be missing where the grammar begins.
    """
    if isinstance(dialect, HarmonyDialect):
        return HarmonyReasoning(vocabulary, dialect)
    closing = dialect.close if is_constrained else (*dialect.close, *dialect.call_starts)
    section = InsideReasoning(vocabulary, _bare(closing))
    return section if inside else BeforeReasoning(section, _bare(dialect.open))


def encode_reasoning_end(dialect: ReasoningDialect | HarmonyDialect, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a section, as they are forced when a budget is used up. The dialect is as it is written."""
    if isinstance(dialect, HarmonyDialect):
        marker = f"{dialect.ends[0]}{dialect.start}assistant{dialect.channel}final{dialect.message}"
    else:
        marker = dialect.close[0]
    return tuple(tokenizer.encode(marker, add_special_tokens=False))


def _bare(markers: tuple[str, ...]) -> tuple[bytes, ...]:
    """White space around markers is free."""
    return tuple(marker.strip().encode() for marker in markers)
