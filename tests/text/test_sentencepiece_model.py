"""Ids from a SentencePiece model equal those of SentencePiece itself, for all training options."""

import contextlib
import functools

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.text.sentencepiece_model import build_backend, parse_model
from tests.text.tokenizer_forms import trained

CHARACTERS = "the quickbrown.,\n\t  ﬁ①é"
TEXTS = st.lists(st.text(CHARACTERS, max_size=20) | st.sampled_from(["the", " ", "<tool>", "🦊"]), max_size=6).map(
    "".join
)
MODEL_TYPES = ["bpe", "unigram"]


@functools.cache
def both(model_type: str, **options):
    size = 340 if model_type == "bpe" else 320
    data = trained(model_type=model_type, vocab_size=size, user_defined_symbols=["<tool>"], **options)
    return sentencepiece.SentencePieceProcessor(model_proto=data), build_backend(parse_model(data))


@given(
    text=TEXTS,
    model_type=st.sampled_from(MODEL_TYPES),
    rule=st.sampled_from(["identity", "nmt_nfkc"]),
    prefix=st.booleans(),
    collapse=st.booleans(),
    byte_fallback=st.booleans(),
)
def test_ids_are_sentencepieces_own(text, model_type, rule, prefix, collapse, byte_fallback):
    theirs, ours = both(
        model_type,
        normalization_rule_name=rule,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=collapse,
        byte_fallback=byte_fallback,
    )
    assert ours.encode(text, add_special_tokens=False).ids == theirs.encode(text)


@given(text=TEXTS, model_type=st.sampled_from(MODEL_TYPES))
def test_decoding_is_sentencepieces_own(text, model_type):
    theirs, ours = both(model_type, normalization_rule_name="identity", remove_extra_whitespaces=False)
    ids = theirs.encode(text)
    assert ours.decode(ids) == theirs.decode(ids) == text


def test_without_legacy_only_the_beginning_of_a_text_gets_a_space():
    data = trained(control_symbols=["<turn>"])
    pieces = {
        legacy: build_backend(parse_model(data), legacy=legacy).encode("fox<turn>fox").tokens
        for legacy in (True, False)
    }
    for legacy, tokens in pieces.items():
        at = tokens.index("<turn>")
        assert tokens[0].startswith("▁")
        assert tokens[at + 1].startswith("▁") == legacy


@pytest.mark.parametrize("model_type", ["word", "char"])
def test_models_of_words_or_characters_are_refused(model_type):
    data = trained(model_type=model_type, byte_fallback=False, vocab_size=30)
    with pytest.raises(ValueError, match="whole words or single characters"):
        parse_model(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_a_value_error(data):
    with contextlib.suppress(ValueError):
        parse_model(data)
