"""Ids become text one at a time, and the pieces join to the text of all ids."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxserve.text.detokenizer import create_detokenizer
from jaxserve.text.tokenizer import Tokenizer
from tests.text.tiny_tokenizers import byte_fallback_backend, byte_level_backend, make

BYTE_LEVEL, FALLBACK = make(byte_level_backend()), make(byte_fallback_backend())
EURO = "€".encode()


def pushed(tokenizer: Tokenizer, ids, prompt_ids=(), skip=True) -> list[str]:
    stream = create_detokenizer(tokenizer, prompt_ids, skip)
    return [stream.push(id) for id in ids]


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    """The single-byte tokens that spell `data`."""
    ids = {tokenizer.token_bytes(id): id for id in reversed(range(tokenizer.vocab_size))}
    return [ids[bytes([byte])] for byte in data]


@given(st.text())
def test_any_text_comes_back_whole(text):
    assert "".join(pushed(BYTE_LEVEL, BYTE_LEVEL.encode(text), skip=False)) == text


@given(st.binary(max_size=24))
def test_any_bytes_are_decoded_as_utf8_without_the_unfinished_end(data):
    import codecs

    whole = codecs.getincrementaldecoder("utf-8")("replace").decode(data)
    assert "".join(pushed(BYTE_LEVEL, byte_ids(BYTE_LEVEL, data))) == whole


@given(st.lists(st.integers(0, 340), max_size=20), st.lists(st.integers(0, 340), max_size=8), st.booleans())
def test_the_stream_adds_what_the_library_adds_to_the_prompt(ids, prompt, skip):
    before, after = BYTE_LEVEL.decode(prompt, skip), BYTE_LEVEL.decode(prompt + ids, skip)
    if "�" not in after:
        assert before + "".join(pushed(BYTE_LEVEL, ids, prompt, skip)) == after


@given(st.text("abc hello the", max_size=20), st.text("hello the", max_size=10))
def test_leading_spaces_follow_the_prompt_with_sentencepiece(text, prompt):
    prompt_ids = FALLBACK.encode(prompt)
    ids = FALLBACK.encode(text)
    whole = FALLBACK.decode(prompt_ids + ids, True)
    assert FALLBACK.decode(prompt_ids, True) + "".join(pushed(FALLBACK, ids, prompt_ids)) == whole


@settings(max_examples=50)
@given(st.text(max_size=20))
def test_byte_fallback_spells_any_character(text):
    ids = FALLBACK.encode("a" + text)
    prompt_ids, ids = ids[:2], ids[2:]
    assert "a" + "".join(pushed(FALLBACK, ids, prompt_ids)) == FALLBACK.decode(prompt_ids + ids)


def test_half_a_character_waits_for_the_rest():
    assert pushed(BYTE_LEVEL, byte_ids(BYTE_LEVEL, EURO)) == ["", "", "€"]


def test_unfinished_bytes_at_the_end_are_never_shown():
    assert pushed(BYTE_LEVEL, byte_ids(BYTE_LEVEL, b"a" + EURO[:2])) == ["a", "", ""]


def test_bytes_that_cannot_become_valid_are_replaced():
    assert "".join(pushed(BYTE_LEVEL, byte_ids(BYTE_LEVEL, EURO[:2] + b"a\xff" + EURO))) == "�a�€"


def test_a_replacement_character_that_was_meant_is_shown_at_once():
    assert pushed(BYTE_LEVEL, byte_ids(BYTE_LEVEL, "�".encode())) == ["", "", "�"]


def test_a_character_begun_by_the_prompt_is_completed():
    ids = byte_ids(BYTE_LEVEL, b"hi" + EURO)
    assert pushed(BYTE_LEVEL, ids[4:], ids[:4]) == ["€"]


def test_special_tokens_are_hidden_only_if_asked(tokenizer):
    ids = tokenizer.encode("a<|im_end|>b")
    assert pushed(tokenizer, ids) == ["a", "", "b"]
    assert pushed(tokenizer, ids, skip=False) == ["a", "<|im_end|>", "b"]


def test_ids_outside_the_vocabulary_are_nothing(tokenizer, words_tokenizer):
    assert pushed(tokenizer, [10**6, *tokenizer.encode("a"), tokenizer.vocab_size]) == ["", "a", ""]
    assert pushed(words_tokenizer, [2, 77, 3]) == ["quick", "", " fox"]


def test_words_without_bytes_go_through_the_library(words_tokenizer):
    assert pushed(words_tokenizer, [2, 3, 4], prompt_ids=[1]) == [" quick", " fox", " jumps"]


@pytest.mark.parametrize("name", ["tokenizer", "fallback_tokenizer", "words_tokenizer"])
def test_peek_says_what_push_will(name, request):
    tokenizer: Tokenizer = request.getfixturevalue(name)
    stream = create_detokenizer(tokenizer, [1], False)
    for id in [3, 4, 290, 77, 200, 3, 1, 0, 260, 130]:
        assert stream.peek(id) == stream.push(id)


def test_long_runs_of_hidden_and_broken_ids_cost_no_more_than_others(tokenizer):
    stream = create_detokenizer(tokenizer, [], True)
    broken = byte_ids(BYTE_LEVEL, b"\x80")
    begin = time.perf_counter()
    for id in [tokenizer.eos_token_id, *broken] * 20_000:
        stream.push(id)
    assert time.perf_counter() - begin < 5  # 0.05 s; DecodeStream alone would need minutes
