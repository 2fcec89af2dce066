"""TextStream: tokens in, deltas out; any cut of the tokens gives the same whole."""

import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jaxserve.outputs import FinishReason, PositionLogprobs, TokenOutput
from jaxserve.sampling_params import SamplingParams
from jaxserve.text.text_stream import TextStream, decode_prompt_logprobs
from tests.text.tiny_tokenizers import byte_level_backend, make

TOKENIZER = make(byte_level_backend(), "<|im_end|>")
END = TOKENIZER.eos_token_id


def output(ids, finish=None, logprobs=None, **fields) -> TokenOutput:
    return TokenOutput(1, tuple(ids), logprobs, finish_reason=finish, **fields)


def run(params, outputs, prompt_ids=()):
    stream = TextStream(TOKENIZER, params, list(prompt_ids), 0)
    return stream, [delta for item in outputs if (delta := stream.push(item)) is not None]


def text_of(deltas) -> str:
    return "".join(delta.text for delta in deltas)


def ids_of(deltas) -> tuple[int, ...]:
    return tuple(id for delta in deltas for id in delta.token_ids)


IDS = st.lists(st.integers(3, 343), max_size=20)


@given(IDS, st.lists(st.integers(0, 20), max_size=4), st.sampled_from([(), ("e",), ("th", "q"), ("ab", "\x00b")]))
def test_any_cut_of_the_tokens_gives_the_same_whole(ids, cuts, stop):
    params = SamplingParams(stop=stop)
    _, whole = run(params, [output(ids, FinishReason.LENGTH)])
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    parts = [output(ids[a:b]) for a, b in pairwise(edges)]
    _, pieces = run(params, [*parts, output((), FinishReason.LENGTH)])
    assert text_of(pieces) == text_of(whole)
    assert ids_of(pieces) == ids_of(whole)
    assert pieces[-1].stop_reason == whole[-1].stop_reason


@given(IDS, st.text("the quick", min_size=1, max_size=3), st.booleans())
def test_the_text_is_cut_at_the_first_stop_string(ids, stop, included):
    _, plain = run(SamplingParams(), [output(ids, FinishReason.LENGTH)])
    params = SamplingParams(stop=(stop,), include_stop_str_in_output=included)
    stream, deltas = run(params, [*(output([id]) for id in ids), output((), FinishReason.LENGTH)])
    before, found, _ = text_of(plain).partition(stop)
    assert text_of(deltas) == before + (found if included else "")
    assert (deltas[-1].stop_reason == stop) == bool(found)
    assert stream.finished


def test_the_ending_token_is_counted_but_not_shown():
    ids = TOKENIZER.encode("the fox")
    _, deltas = run(SamplingParams(skip_special_tokens=False), [output([*ids, END], FinishReason.STOP)])
    assert text_of(deltas) == "the fox"
    assert ids_of(deltas) == (*ids, END)


def test_the_ending_token_is_shown_when_stops_are_included_and_specials_are_not_hidden():
    params = SamplingParams(skip_special_tokens=False, include_stop_str_in_output=True)
    _, deltas = run(params, [output([*TOKENIZER.encode("the"), END], FinishReason.STOP)])
    assert text_of(deltas) == "the<|im_end|>"


def test_an_end_token_that_does_not_end_is_hidden_as_a_special_token():
    _, deltas = run(SamplingParams(ignore_eos=True), [output([END, *TOKENIZER.encode("the")], FinishReason.LENGTH)])
    assert text_of(deltas) == "the"


def test_tokens_after_the_stop_string_are_dropped_everywhere():
    ids = TOKENIZER.encode("a.b")
    entries = tuple(PositionLogprobs(id, -1.0, 1) for id in ids)
    params = SamplingParams(stop=(".",), logprobs=0)
    stream, (delta,) = run(params, [output(ids, FinishReason.LENGTH, entries)])
    assert (delta.text, delta.token_ids, len(delta.logprobs)) == ("a", tuple(ids[:2]), 2)
    assert (delta.finish_reason, delta.stop_reason) == (FinishReason.STOP, ".")
    assert stream.finished and stream.num_tokens == 2
    assert stream.push(output(ids)) is None


def test_stop_strings_do_not_count_before_min_tokens():
    ids = TOKENIZER.encode("a.b.c")
    _, deltas = run(SamplingParams(stop=(".",), min_tokens=2), [output([id]) for id in ids])
    assert text_of(deltas) == "a.b"


def test_the_prompt_cannot_take_part_in_a_stop_string():
    ids = TOKENIZER.encode("ab")
    _, deltas = run(SamplingParams(stop=("ab",)), [output(ids[1:], FinishReason.LENGTH)], ids[:1])
    assert text_of(deltas) == "b"


def test_stop_token_ids_keep_the_engine_s_reason():
    id = TOKENIZER.encode("a")[0]
    _, deltas = run(SamplingParams(), [output([id], FinishReason.STOP, stop_reason=id)])
    assert (deltas[-1].text, deltas[-1].stop_reason) == ("", id)


def test_an_output_without_news_gives_no_delta():
    assert run(SamplingParams(), [output(())])[1] == []


def test_logprobs_have_texts_whose_bytes_make_the_text():
    ids = [*TOKENIZER.encode("the €"), END]
    entries = tuple(PositionLogprobs(id, -0.5, 1) for id in ids)
    _, (delta,) = run(SamplingParams(logprobs=0), [output(ids, FinishReason.STOP, entries)])
    tokens = [entry.token for entry in delta.logprobs]
    assert tokens[-4:] == ["", "", "€", "<|im_end|>"]
    assert bytes(b for entry in delta.logprobs for b in entry.bytes).decode() == "the €<|im_end|>"
    assert all(entry.top == () for entry in delta.logprobs)


def top_ids(k, sampled, best):
    entry = PositionLogprobs(sampled, -2.0, 9, tuple((id, -float(i)) for i, id in enumerate(best)))
    _, (delta,) = run(SamplingParams(logprobs=k), [output([sampled], FinishReason.LENGTH, (entry,))])
    return [item.token_id for item in delta.logprobs[0].top]


def test_alternatives_begin_with_the_sampled_token_then_the_best_k_without_it():
    assert top_ids(3, 12, [10, 11, 12]) == [12, 10, 11]
    assert top_ids(3, 20, [10, 11, 12]) == [20, 10, 11, 12]
    assert top_ids(1, 20, [10]) == [20, 10]
    assert top_ids(0, 20, []) == []


def test_alternatives_complete_the_same_half_character():
    half, cent, rest = TOKENIZER.encode("€")[:2], TOKENIZER.encode("\u20a2")[-1], TOKENIZER.encode("€")[-1]
    entry = PositionLogprobs(rest, -1.0, 1, ((rest, -1.0), (cent, -2.0)))
    outputs = [
        output(half, logprobs=tuple(PositionLogprobs(id, 0.0, 1) for id in half)),
        output([rest], None, (entry,)),
    ]
    _, deltas = run(SamplingParams(logprobs=2), outputs)
    assert [item.token for item in deltas[-1].logprobs[0].top] == ["€", "\u20a2"]


def test_tokens_requested_by_id_have_texts_and_occur_once():
    half, cent, rest = TOKENIZER.encode("€")[:2], TOKENIZER.encode("\u20a2")[-1], TOKENIZER.encode("€")[-1]
    wanted = ((cent, -2.0), (rest, -1.0), (cent, -2.0))
    entry = PositionLogprobs(rest, -1.0, 1, ((rest, -1.0),), wanted)
    outputs = [
        output(half, logprobs=tuple(PositionLogprobs(id, 0.0, 1) for id in half)),
        output([rest], None, (entry,)),
    ]
    params = SamplingParams(logprobs=1, logprob_token_ids=(cent, rest, cent))
    last = run(params, outputs)[1][-1].logprobs[0]
    assert [(one.token, one.logprob) for one in last.requested] == [("\u20a2", -2.0), ("€", -1.0)]
    assert [one.token for one in last.top] == ["€"]


def test_prompt_logprobs_keep_all_k_besides_the_prompt_s_own_token():
    prompt = TOKENIZER.encode("the fox")
    entries = [None, *(PositionLogprobs(id, -3.0, 7, ((5, -0.1), (6, -0.2))) for id in prompt[1:])]
    spelled = decode_prompt_logprobs(TOKENIZER, prompt, entries, 2)
    assert spelled[0] is None
    assert [item.token_id for item in spelled[1].top] == [prompt[1], 5, 6]
    assert "".join(entry.token for entry in spelled[1:]) == TOKENIZER.decode(prompt[1:])


def test_prompt_logprobs_come_with_the_first_choice_only():
    news = output([5], prompt_logprobs=(None,))
    params = SamplingParams(prompt_logprobs=0)
    assert TextStream(TOKENIZER, params, [4], 0).push(news).prompt_logprobs == (None,)
    assert TextStream(TOKENIZER, params, [4], 1).push(news).prompt_logprobs is None


def test_cost_is_linear():
    ids = TOKENIZER.encode("the quick fox ") * 4000
    begin = time.thread_time()
    run(SamplingParams(stop=("never", "ever")), [output([id]) for id in ids])
    assert (time.thread_time() - begin) / len(ids) < 200e-6  # about 5 µs a token on an idle core
