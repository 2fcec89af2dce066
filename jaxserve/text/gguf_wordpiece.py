"""BERT's WordPiece from the vocabulary of a GGUF file, which marks the beginnings of words instead of what follows.

Source: llama.cpp's conversion/bert.py, undone here.
"""

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

from jaxserve.text.sentencepiece_model import NORMAL, SPACE, UNUSED

CONTINUED = "##"
MAX_WORD = 100  # characters; a longer word is unknown, as BERT's own tokenizer has it


def create_wordpiece(tokens: Sequence[str], types: Sequence[int], unknown: str) -> tokenizers.Tokenizer:
    """Return the tokenizer without what it puts around a text.

    tokens, types   Those of the file, by id.
    unknown         The token of a word that has no pieces.

    Text is in lower case and without accents where no token has a capital, as in models that are called uncased.
    """
    pieces = zip(tokens, types, strict=True)
    vocab = {_to_piece(token, kind): id for id, (token, kind) in enumerate(pieces) if kind != UNUSED}
    is_cased = any(piece.lower() != piece for piece in vocab if not piece.startswith("["))
    backend = tokenizers.Tokenizer(WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=MAX_WORD))
    backend.normalizer = normalizers.BertNormalizer(lowercase=not is_cased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix=CONTINUED)
    return backend


def set_pair_processor(backend: tokenizers.Tokenizer, first: tuple[str, int], separator: tuple[str, int]) -> None:
    """Make `backend` put these tokens around a text, and around two, of which the second has type 1."""
    begin, end = first[0], separator[0]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} $B:1 {end}:1", special_tokens=[first, separator]
    )


def _to_piece(token: str, kind: int) -> str:
    if kind != NORMAL:
        return token
    return token.removeprefix(SPACE) if token.startswith(SPACE) else CONTINUED + token
