"""bad_words: what is too much is refused before it is tokenized."""

import pytest

from jaxserve.errors import InvalidParameter
from jaxserve.text import bad_words
from jaxserve.text.bad_words import MAX_SEQUENCES, MAX_TOKENS, encode_bad_words


class CountingTokenizer:
    """Tokenizes each character, and counts its calls."""

    max_token_chars = 4

    def __init__(self) -> None:
        self.num_calls = 0

    def encode(self, text, add_special_tokens):
        self.num_calls += 1
        return [ord(char) for char in text]


@pytest.mark.parametrize(
    "words",
    [
        ["a"] * (MAX_SEQUENCES + 1),
        ["a"] * 100_000,
        ["x" * (MAX_TOKENS * 4 + 1)],
        ["x" * MAX_TOKENS, "y" * (MAX_TOKENS * 3 + 1)],
    ],
    ids=lambda words: f"{len(words)} of {len(words[0])}",
)
def test_too_many_or_too_long_ones_cost_nothing(words):
    tokenizer = CountingTokenizer()
    with pytest.raises(InvalidParameter, match="bad_words are or come to more than"):
        encode_bad_words(words, tokenizer)
    assert tokenizer.num_calls == 0


def test_as_many_as_are_allowed_are_encoded_once(monkeypatch):
    tokenizer = CountingTokenizer()
    monkeypatch.setattr(bad_words, "MAX_TOKENS", 4)
    assert encode_bad_words(["ab", "ab", " cd"], tokenizer) == ((97, 98), (99, 100))
    with pytest.raises(InvalidParameter, match="send fewer"):
        encode_bad_words(["ab", "cd", "e"], tokenizer)
