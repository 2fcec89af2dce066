"""Tokenizer: text to token ids and back, and the bytes of tokens, from a Hugging Face directory or a GGUF file."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxserve.errors import BadCheckpoint
from jaxserve.text.gguf_tokenizer import read_gguf
from jaxserve.text.token_bytes import find_piece_decoder
from jaxserve.text.tokenizer_files import read_directory
from jaxserve.text.tokenizer_parts import TokenizerParts
from jaxserve.weights.gguf_files import find_only_model


class Tokenizer:
    """The tokenizer of a checkpoint. It is immutable, so threads may share it.

    backend           The object of the `tokenizers` library.
    special_tokens    Name → text ("eos_token": "</s>"), as chat templates see them.
    special_ids       The ids that skip_special_tokens hides.
    eos_token_id      The primary end token; generation configs may name further ones.
    bos_token_id      The token that begins a text, if there is one.
    chat_templates    Name → Jinja source ("default", "tool_use", …).
    config            tokenizer_config.json, or the same keys from a GGUF file.
    vocab_size        One more than the highest id; the network's logits may be wider.
    max_token_chars   The characters of the longest token: a text has at least its length divided by this in tokens.
    piece_decoder     Decoder of vocabulary pieces to bytes; None if tokens have no bytes of their own.
    """

    def __init__(self, parts: TokenizerParts) -> None:
        self.backend = parts.backend
        self.backend.no_padding()
        self.backend.no_truncation()
        self.special_tokens = parts.special_tokens
        self.eos_token_id = parts.eos_token_id
        self.bos_token_id = parts.bos_token_id
        self.chat_templates = parts.chat_templates
        self.config: dict[str, Any] = parts.config
        added = self.backend.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        pieces = self.backend.get_vocab()
        self.vocab_size = 1 + max(pieces.values(), default=-1)
        self.max_token_chars = max(map(len, pieces), default=1)
        self.piece_decoder = find_piece_decoder(self.backend)
        self._bytes: dict[int, bytes | None] = {}

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Load the tokenizer of a directory in Hugging Face layout, or of a .gguf file.

        Raises BadCheckpoint if there is none, or if it cannot be read.
        """
        path = Path(path)
        if path.is_dir() and (gguf := find_only_gguf(path)) is not None:
            return cls(read_gguf(gguf))
        if path.is_dir():
            return cls(read_directory(path))
        if path.is_file():
            return cls(read_gguf(path))
        raise BadCheckpoint(f"There is no tokenizer at {path}: neither a directory nor a file.")

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of `text`; texts of special tokens in it become these tokens. Other threads run meanwhile."""
        # Only the batch call releases the interpreter lock: 5 MB of text held it for 0.2 s in encode(), 6 ms here.
        return self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def find_offsets(self, text: str, add_special_tokens: bool = True) -> list[tuple[int, int]]:
        """Return of each id that `encode` makes the part of `text`, [start, end) in characters.

        Tokens that are added have (0, 0), and those of one character's bytes all have this character.
        """
        return self.backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].offsets

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `token_ids`; ids outside the vocabulary have none."""
        ids = [id for id in token_ids if 0 <= id < self.vocab_size]
        return self.backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def piece(self, token_id: int) -> str:
        """Return the raw vocabulary piece (`Ġthe`), or "" outside the vocabulary."""
        return (self.backend.id_to_token(token_id) or "") if 0 <= token_id < self.vocab_size else ""

    def pieces(self, token_ids: Iterable[int]) -> list[str]:
        """Return the raw vocabulary pieces of several ids."""
        return [self.piece(id) for id in token_ids]

    def token_bytes(self, token_id: int) -> bytes | None:
        """Return the bytes that a token adds to a text (b" the"); None if tokens have no bytes of their own."""
        if token_id in self._bytes:
            return self._bytes[token_id]
        value = None if self.piece_decoder is None else self.piece_decoder.decode(self.piece(token_id))
        self._bytes[token_id] = value
        return value


def find_only_gguf(directory: Path) -> Path | None:
    """Return the GGUF file of a directory that has one, or its first part, and no tokenizer.json."""
    if (directory / "tokenizer.json").exists():
        return None
    name = find_only_model(file.name for file in directory.glob("*.gguf"))
    return None if name is None else directory / name
