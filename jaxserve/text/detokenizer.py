"""Incremental detokenizers: token ids to valid text, one id at a time. An incomplete character is held back.

Where a token has bytes of its own (byte-level BPE, SentencePiece with byte fallback) the text is the UTF-8 decoding of
those bytes: each id costs the same, bytes that can never become valid turn into U+FFFD at once, and an incomplete
character at the end is dropped. Other tokenizers use `tokenizers.DecodeStream`, which supports every decoder but, as of
0.23, decodes all the ids that it holds again with each new one (4000 hidden or broken ids take 0.3 to 0.7 s) and
repeats the prompt if that ends inside a character; so hidden ids never reach it.

Both start from the prompt's last ids, so that a leading space is right. Special tokens are hidden on request, ids
outside the vocabulary always.
"""

import codecs
import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenizers.decoders import DecodeStream

from jaxserve.text.tokenizer import Tokenizer

_PRIMING_IDS = 32  # enough for the leading space and for an incomplete character
_MAX_HELD_IDS = 4  # in DecodeStream: no character has more bytes


class Detokenizer(Protocol):
    """An incremental decoder of one output."""

    def push(self, token_id: int) -> str:
        """Return the text that this id completes; "" while a character is incomplete."""
        ...

    def peek(self, token_id: int) -> str:
        """Return what `push` would return, without changing anything."""
        ...

    def copy(self) -> "Detokenizer":
        """Return an independent copy in the same state."""
        ...


def create_detokenizer(tokenizer: Tokenizer, prompt_ids: Sequence[int], skip_special_tokens: bool) -> Detokenizer:
    """Return a decoder of one output to `prompt_ids`."""
    hidden = tokenizer.special_ids if skip_special_tokens else frozenset()
    if tokenizer.piece_decoder is None:
        return _StreamDetokenizer(tokenizer, prompt_ids, hidden)
    return _ByteDetokenizer(tokenizer, prompt_ids, hidden)


class _ByteDetokenizer:
    """A decoder of the tokens' own bytes. `_held` is the beginning of a character, at most three bytes."""

    __slots__ = ("_held", "_hidden", "_strip", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], hidden: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        before = b"".join(self._bytes(id) for id in prompt_ids[-_PRIMING_IDS:])
        self._held = _incomplete_end(before)
        at_start = not before and not any(self._bytes(id) for id in prompt_ids)
        self._strip = tokenizer.piece_decoder.num_stripped_spaces if at_start and tokenizer.piece_decoder else 0

    def _bytes(self, token_id: int) -> bytes:
        return b"" if token_id in self._hidden else self._tokenizer.token_bytes(token_id) or b""

    def push(self, token_id: int) -> str:
        new = self._bytes(token_id)
        if not new:
            return ""
        if self._strip:
            new = self._without_leading_spaces(new)
        text, self._held = _decode(self._held + new)
        return text

    def peek(self, token_id: int) -> str:
        new = self._bytes(token_id)
        if self._strip:
            new = new[_num_leading(new, self._strip) :]
        return _decode(self._held + new)[0] if new else ""

    def copy(self) -> "_ByteDetokenizer":
        return copy.copy(self)

    def _without_leading_spaces(self, new: bytes) -> bytes:
        num = _num_leading(new, self._strip)
        self._strip = self._strip - num if num == len(new) else 0
        return new[num:]


def _num_leading(text: bytes, max_spaces: int) -> int:
    """Return with how many spaces `text` begins, at most `max_spaces`."""
    return min(max_spaces, len(text) - len(text.lstrip(b" ")))


def _decode(data: bytes) -> tuple[str, bytes]:
    """Return the text of `data`, and the bytes at its end that may still become a character."""
    try:
        return data.decode(), b""
    except UnicodeDecodeError:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        return text, decoder.getstate()[0]


def _incomplete_end(data: bytes) -> bytes:
    return _decode(data)[1]


class _StreamDetokenizer:
    """The incremental decoder of `tokenizers`, for tokens whose text depends on their neighbours."""

    __slots__ = ("_held", "_hidden", "_stream", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], hidden: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._held: list[int] = []
        shown = [id for id in prompt_ids[-_PRIMING_IDS:] if self._is_shown(id)]
        while shown and self._decode(shown).endswith("�"):
            shown.pop()
        self._stream = DecodeStream(ids=shown)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.backend.decode(token_ids, skip_special_tokens=False)

    def _is_shown(self, token_id: int) -> bool:
        return token_id not in self._hidden and bool(self._tokenizer.piece(token_id))

    def push(self, token_id: int) -> str:
        if not self._is_shown(token_id):
            return ""
        self._held.append(token_id)
        try:
            text = self._stream.step(self._tokenizer.backend, token_id)
        except Exception:  # by `tokenizers`, if a token changes the text before it
            return self._restart()
        if text is not None:
            self._held.clear()
            return text
        return self._restart() if len(self._held) == _MAX_HELD_IDS else ""

    def _restart(self) -> str:
        """Return the text of the held ids alone, which is empty or broken, and start again after them."""
        text = self._decode(self._held)
        self._stream = DecodeStream(ids=[] if text.endswith("�") else self._held)
        self._held = []
        return text

    def peek(self, token_id: int) -> str:
        if not self._is_shown(token_id):
            return ""
        try:
            return copy.copy(self._stream).step(self._tokenizer.backend, token_id) or ""
        except Exception:  # as in push
            return self._decode([*self._held, token_id])

    def copy(self) -> "_StreamDetokenizer":
        other = copy.copy(self)
        other._held, other._stream = [*self._held], copy.copy(self._stream)
        return other


class EscapingDetokenizer:
    """A detokenizer in whose text some tokens are private-use characters, which other tokens cannot produce."""

    __slots__ = ("_control_tokens", "_inner", "_reserved")

    def __init__(self, inner: Detokenizer, control_tokens: Mapping[int, str]) -> None:
        """Wrap a detokenizer; control_tokens: token id → its character of a private-use plane."""
        self._inner = inner
        self._control_tokens = control_tokens
        self._reserved = {ord(char): "�" for char in control_tokens.values()}

    def push(self, token_id: int) -> str:
        """Return the text that this id completes; "" while a character is incomplete."""
        return self._control_tokens.get(token_id) or self._replace_reserved(self._inner.push(token_id))

    def peek(self, token_id: int) -> str:
        """Return what `push` would return, without changing anything."""
        return self._control_tokens.get(token_id) or self._replace_reserved(self._inner.peek(token_id))

    def copy(self) -> "EscapingDetokenizer":
        """Return an independent copy in the same state."""
        other = copy.copy(self)
        other._inner = self._inner.copy()
        return other

    def _replace_reserved(self, text: str) -> str:
        return text if text.isascii() else text.translate(self._reserved)
