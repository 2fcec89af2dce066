"""Encode bad_words as sequences of token ids: the last token of a sequence is forbidden after the others."""

from collections.abc import Sequence

from jaxserve.errors import InvalidParameter
from jaxserve.text.tokenizer import Tokenizer

MAX_SEQUENCES = 128
MAX_TOKENS = 1024  # of all sequences together


def encode_bad_words(words: Sequence[str], tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Return each word as it is tokenized at the beginning of a text and, if its first token differs, after a space.

    Other tokenizations of the same text are not found, as in vLLM.

    Raises InvalidParameter for a word without tokens, and for too many sequences or tokens.
    """
    sequences: dict[tuple[int, ...], None] = {}
    max_chars = MAX_TOKENS * tokenizer.max_token_chars
    if len(words) > MAX_SEQUENCES or sum(map(len, words)) > max_chars:
        raise _too_many()  # before the work, which repeated words would cost, too
    for word in words:
        bare = tuple(tokenizer.encode(word.lstrip(), add_special_tokens=False))
        if not bare:
            raise InvalidParameter(f"bad_words has {word[:50]!r}, which has no tokens; leave it out.", "bad_words")
        spaced = tuple(tokenizer.encode(" " + word.lstrip(), add_special_tokens=False))
        sequences[bare] = None
        if len(spaced) == len(bare) and spaced[0] != bare[0]:
            sequences[spaced] = None
    if len(sequences) > MAX_SEQUENCES or sum(map(len, sequences)) > MAX_TOKENS:
        raise _too_many()
    return tuple(sequences)


def _too_many() -> InvalidParameter:
    return InvalidParameter(
        f"bad_words are or come to more than {MAX_SEQUENCES} token sequences or {MAX_TOKENS} tokens; send fewer.",
        "bad_words",
    )
