"""A model's tokens as llguidance sees them: bytes for ordinary tokens, and special tokens that match no text."""

import threading
from collections.abc import Sequence

from llguidance import LLTokenizer, TokenizerWrapper

from jaxserve.errors import Unsupported


class GrammarTokenizer:
    """Plain values of a tokenizer, and the LLTokenizer made of them when it is first needed.

    tokens          the bytes each token adds to a text, by id; None: this tokenizer's tokens have no bytes of their own
    special_tokens  text → id of the tokens that stand for no text
    eos_ids         tokens that end an answer, the primary one first
    size            of the logits; ids without a token are never allowed
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
        self._tokens = token_bytes
        self._eos_ids = list(eos_ids)
        self._lock = threading.Lock()
        self._made: LLTokenizer | None = None

    def get_ll_tokenizer(self) -> LLTokenizer:
        """Made once, by whoever asks first; takes tenths of a second. Raises Unsupported without bytes."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> LLTokenizer:
        if self._tokens is None:
            raise Unsupported(
                "Answers of a given shape need a tokenizer whose tokens have bytes of their own (byte-level BPE, or "
                "SentencePiece with byte fallback); this model's tokenizer is of another kind."
            )
        if not self._eos_ids:
            raise Unsupported("Answers of a given shape need an end token, and this model's tokenizer names none.")
        special = set(self.special_tokens.values()) | set(self._eos_ids)
        tokens = [*self._tokens[: self.vocab_size], *[b""] * (self.vocab_size - len(self._tokens))]
        source = _Source(tokens, sorted(special), self._eos_ids[0])
        made = LLTokenizer(TokenizerWrapper(source), eos_token=self._eos_ids)
        source.made = made
        return made


class _Source:
    """What TokenizerWrapper asks for."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_token_ids: list[int], eos_token_id: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self.eos_token_id = eos_token_id
        self.made: LLTokenizer | None = None

    def __call__(self, text: bytes) -> list[int]:
        """Only asked for grammars that force tokens, as theirs may say that bring their own options."""
        return [] if self.made is None else self.made.greedy_tokenize(text.decode())
