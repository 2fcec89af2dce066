"""A cursor sees the end of an output at the same token as its TextStream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve.outputs import FinishReason, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.stop_cursor import StopCursor
from jaxserve.text.text_stream import TextStream
from jaxserve.text.tokenizer import Tokenizer
from tests.text.parsing import dialect, output_spec
from tests.text.tiny_tokenizers import byte_fallback_backend, byte_level_backend, make, words_backend

TOKENIZERS = {
    "byte level": make(byte_level_backend(), "<|im_end|>"),
    "byte fallback": make(byte_fallback_backend(), "</s>"),
    "words": make(words_backend()),
}


def end_of(cursor: StopCursor, tokens: list[int]) -> tuple[int, str | None]:
    """Tokens up to the one that ends the answer, and what has ended it."""
    for num, token in enumerate(tokens, 1):
        cursor, stop = cursor.advance(token)
        if stop is not None:
            return num, stop
    return len(tokens), None


MARKERS = {2: "\U000f0000", 7: "\U000f0001", 200: "\U000f0002"}


def start(
    tokenizer: Tokenizer, params: SamplingParams, prompt: list[int], control_tokens: dict[int, str] | None = None
) -> StopCursor:
    cursor = StopCursor.from_params(tokenizer, params, prompt, control_tokens)
    assert cursor is not None
    return cursor


def open_stream(
    tokenizer: Tokenizer, params: SamplingParams, prompt: list[int], control_tokens: dict[int, str] | None
) -> TextStream:
    """A stream whose parser, if it has one, finds nothing but content."""
    parser = dialect(None).create_parser(output_spec(tools=())) if control_tokens else None
    return TextStream(tokenizer, params, prompt, 0, parser, control_tokens)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    data=st.data(),
    prompt=st.lists(st.integers(0, 4), max_size=3),
    included=st.booleans(),
    hides=st.booleans(),
    min_tokens=st.integers(0, 6),
    control_tokens=st.sampled_from([None, MARKERS]),
)
def test_it_agrees_with_the_stream(name, data, prompt, included, hides, min_tokens, control_tokens):
    tokenizer = TOKENIZERS[name]
    tokens = data.draw(st.lists(st.integers(0, tokenizer.backend.get_vocab_size()), min_size=1, max_size=12))
    text = tokenizer.decode(tokens)
    at, size = data.draw(st.integers(0, max(0, len(text) - 1))), data.draw(st.integers(1, 3))
    stops = (text[at : at + size] or "e", data.draw(st.sampled_from(["a", " ", "\ufffd", "th"])))
    params = SamplingParams(
        stop=stops, include_stop_str_in_output=included, skip_special_tokens=hides, min_tokens=min_tokens
    )
    num, stop = end_of(start(tokenizer, params, prompt, control_tokens), tokens)
    reason = FinishReason.LENGTH if stop is None else FinishReason.STOP
    delta = open_stream(tokenizer, params, prompt, control_tokens).push(
        TokenOutput(1, tuple(tokens[:num]), finish_reason=reason, stop_reason=stop)
    )
    assert (delta.finish_reason, delta.stop_reason, delta.token_ids) == (reason, stop, tuple(tokens[:num]))

    stream, deltas = open_stream(tokenizer, params, prompt, control_tokens), []
    for token in tokens:
        if not stream.finished:
            deltas.append(stream.push(TokenOutput(1, (token,))))
    assert sum(len(one.token_ids) for one in deltas) == num
    assert deltas[-1].stop_reason == stop
    if stop is not None:
        assert "".join(one.text for one in deltas) == delta.text


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.data())
def test_branches_do_not_feel_each_other(name, data):
    tokenizer = TOKENIZERS[name]
    ids = st.lists(st.integers(0, tokenizer.backend.get_vocab_size() - 1), max_size=6)
    shared, one, other = data.draw(ids), data.draw(ids), data.draw(ids)
    params = SamplingParams(stop=("e", "the"))
    cursor = start(tokenizer, params, [])
    for token in shared:
        cursor, _ = cursor.advance(token)
    alone = end_of(cursor, other)
    end_of(cursor, one)
    assert end_of(cursor, other) == alone


def test_without_stop_strings_there_is_nothing_to_follow():
    assert StopCursor.from_params(TOKENIZERS["words"], SamplingParams(), []) is None
