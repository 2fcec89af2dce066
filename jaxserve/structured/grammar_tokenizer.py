"""A model's tokens for llguidance: bytes for ordinary tokens, and special tokens, which match no text."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLTokenizer, TokenizerWrapper

from jaxserve.errors import Unsupported


class GrammarTokenizer:
    """The tokens of one model, and the LLTokenizer made of them when it is first needed.

    token_bytes      the bytes that each token adds to a text, by id; None: the tokens of this tokenizer have none
    special_tokens   text → id of the tokens that stand for no text
    eos_ids          tokens that end the output, the primary one first
    vocab_size       width of the logits; ids without a token are never allowed
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes] | None,
        special_tokens: dict[str, int],
        eos_ids: Sequence[int],
        vocab_size: int,
    ) -> None:
        self.special_tokens = special_tokens
        self.vocab_size = vocab_size
        self._token_bytes = token_bytes
        self._eos_ids = list(eos_ids)
        self._lock = threading.Lock()
        self._ll_tokenizer: LLTokenizer | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what makes this tokenizer, as JSON values, for another process."""
        tokens = None if self._token_bytes is None else [token.decode("latin-1") for token in self._token_bytes]
        return {
            "tokens": tokens,
            "special_tokens": self.special_tokens,
            "eos_ids": self._eos_ids,
            "vocab_size": self.vocab_size,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "GrammarTokenizer":
        """Make an equal tokenizer from what `to_json` returned."""
        tokens = None if data["tokens"] is None else [token.encode("latin-1") for token in data["tokens"]]
        return cls(tokens, data["special_tokens"], data["eos_ids"], data["vocab_size"])

    def get_ll_tokenizer(self) -> LLTokenizer:
        """Return llguidance's tokenizer; the first call makes it, which takes tenths of a second.

        Raises Unsupported if the tokens have no bytes of their own, or if there is no end token.
        """
        with self._lock:
            if self._ll_tokenizer is None:
                self._ll_tokenizer = self._create()
            return self._ll_tokenizer

    def _create(self) -> LLTokenizer:
        if self._token_bytes is None:
            raise Unsupported(
                "Structured outputs need a tokenizer whose tokens have bytes of their own (byte-level BPE, or "
                "SentencePiece with byte fallback); this model's tokenizer is of another kind."
            )
        if not self._eos_ids:
            raise Unsupported("Structured outputs need an end token, and this model's tokenizer names none.")
        special_ids = set(self.special_tokens.values()) | set(self._eos_ids)
        num_missing = self.vocab_size - len(self._token_bytes)
        tokens = [*self._token_bytes[: self.vocab_size], *[b""] * num_missing]
        source = _TokenizerSource(tokens, sorted(special_ids), self._eos_ids[0])
        source.ll_tokenizer = LLTokenizer(TokenizerWrapper(source), eos_token=self._eos_ids)
        return source.ll_tokenizer


class _TokenizerSource:
    """The attributes and the call that llguidance's TokenizerWrapper expects of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_token_ids: list[int], eos_token_id: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self.eos_token_id = eos_token_id
        self.ll_tokenizer: LLTokenizer | None = None

    def __call__(self, text: bytes) -> list[int]:
        """Tokenize a text. Called only for grammars that force tokens: a client's Lark grammar may set that option."""
        return [] if self.ll_tokenizer is None else self.ll_tokenizer.greedy_tokenize(text.decode())
