"""Where the reasoning section of an answer stands, token by token, and whether a prompt has opened or closed one.

A grammar and a budget need to know at which token the reasoning ends, before any text is read. A place never changes:
advancing makes another one, and costs the same for every token.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from jaxserve.text.tokenizer import Tokenizer

_MAX_HEADER_BYTES = 64


@dataclass(frozen=True, slots=True)
class UntilMarker:
    """In a section that ends with a marker: with a special token, or with a text, however it is cut into tokens.

    tail   the bytes before this place that a marker may begin in
    """

    tokenizer: Tokenizer
    ids: frozenset[int]
    texts: tuple[bytes, ...]
    tail: bytes = b""

    def advance(self, token_id: int) -> "UntilMarker | None":
        if token_id in self.ids:
            return None
        if not self.texts or token_id in self.tokenizer.special_ids:
            return self
        text = self.tail + _bytes(self.tokenizer, token_id)
        if any(marker in text for marker in self.texts):
            return None
        reach = max(map(len, self.texts)) - 1
        return replace(self, tail=text[len(text) - reach :] if len(text) > reach else text)


@dataclass(frozen=True, slots=True)
class UntilChannel:
    """In harmony's messages, which say in a header what they are: <|channel|>final<|message|>.

    The reasoning ends where the message begins of one whose header names one of `channels`.
    header   what has been read of the header; None: inside a message
    """

    tokenizer: Tokenizer
    channel: int
    message: int
    channels: tuple[bytes, ...] = (b"final", b"commentary")
    header: bytes | None = None

    def advance(self, token_id: int) -> "UntilChannel | None":
        if token_id == self.channel:
            return replace(self, header=b"")
        if self.header is None:
            return self
        if token_id == self.message:
            return None if self.header.strip().startswith(self.channels) else replace(self, header=None)
        return replace(self, header=(self.header + _bytes(self.tokenizer, token_id))[:_MAX_HEADER_BYTES])


@dataclass(frozen=True, slots=True)
class MaybeMarked:
    """Before a section that a marker would open. Where anything else begins there is none.

    section   behind the marker
    head      the bytes since the beginning
    """

    tokenizer: Tokenizer
    ids: frozenset[int]
    texts: tuple[bytes, ...]
    section: UntilMarker
    head: bytes = b""

    @classmethod
    def of(cls, tokenizer: Tokenizer, markers: Iterable[str], section: UntilMarker) -> "MaybeMarked":
        opening = until(tokenizer, markers)
        return cls(tokenizer, opening.ids, opening.texts, section)

    def advance(self, token_id: int) -> "MaybeMarked | UntilMarker | None":
        if token_id in self.ids:
            return self.section
        head = (self.head + _bytes(self.tokenizer, token_id)).lstrip()
        if head.startswith(self.texts):
            return self.section
        return replace(self, head=head) if any(text.startswith(head) for text in self.texts) else None


def until(tokenizer: Tokenizer, markers: Iterable[str]) -> UntilMarker:
    """The beginning of a section that the first of these markers ends.

    Where a marker is a special token of the vocabulary, only that token counts: a text like it is no marker.
    """
    ids: set[int] = set()
    texts: list[bytes] = []
    for marker in markers:
        token_id = special_id(tokenizer, marker)
        if token_id is None:
            texts.append(marker.encode())
        else:
            ids.add(token_id)
    return UntilMarker(tokenizer, frozenset(ids), tuple(texts))


def until_final(tokenizer: Tokenizer) -> UntilChannel:
    """The beginning of an answer in harmony. The vocabulary must have its tokens."""
    channel, message = special_id(tokenizer, "<|channel|>"), special_id(tokenizer, "<|message|>")
    assert channel is not None and message is not None
    return UntilChannel(tokenizer, channel, message)


def special_id(tokenizer: Tokenizer, text: str) -> int | None:
    """The id of the special token with this text, if there is one."""
    token_id = tokenizer.backend.token_to_id(text)
    return token_id if token_id in tokenizer.special_ids else None


def marker_ids(tokenizer: Tokenizer, marker: str) -> tuple[int, ...]:
    """The tokens by which a marker is written, as a budget needs them that is used up."""
    return tuple(tokenizer.encode(marker, add_special_tokens=False))


def section_at_end(
    prompt: str, opening: Sequence[str], closing: Sequence[str], turn_marks: Collection[str] = ()
) -> Literal["open", "closed"] | None:
    """Whether the prompt's last turn has opened a reasoning section, or closed it; None: neither.

    turn_marks   special tokens; the last that is no marker of the section begins the turn, so that what users write of
                 <think> does not count. Without any, only the very end of the prompt is looked at.
    """
    turn = _last_turn(prompt, [mark for mark in turn_marks if mark and mark not in (*opening, *closing)])
    if turn is None:
        end = prompt.rstrip()
        return "open" if end.endswith(tuple(opening)) else "closed" if end.endswith(tuple(closing)) else None
    opened = max((turn.rfind(marker) for marker in opening), default=-1)
    closed = max((turn.rfind(marker) for marker in closing), default=-1)
    if opened < 0 and closed < 0:
        return None
    return "open" if opened > closed else "closed"


def _last_turn(prompt: str, marks: Sequence[str]) -> str | None:
    """What stands behind the last of the marks; it is usually short, so long prompts are seldom looked through."""
    for size in (256, 4096, len(prompt)):
        end = prompt[-size:] if size else ""
        places = [place + len(mark) for mark in marks if (place := end.rfind(mark)) >= 0]
        if places:
            return end[max(places) :]
    return None


def _bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """The bytes of a token; where tokens have none of their own, those of its text alone."""
    own = tokenizer.token_bytes(token_id)
    return tokenizer.decode([token_id]).encode() if own is None else own
