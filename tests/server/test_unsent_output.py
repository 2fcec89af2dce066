"""Output that nobody reads: it is kept small, counted, and above the limit the request furthest behind is ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxserve import FinishReason, Logprob, SamplingParams, TextDelta, TokenLogprob, ToolCallDelta
from server.errors import ApiError
from server.generation import Generation
from server.unsent_output import MAX_DELTAS, UnsentOutput, estimate_bytes, merge_deltas, merge_in_order
from tests.fake_llm import FakeLLM


class Job:
    params = SamplingParams(n=2)


class Running:
    is_cancelled = False

    def cancel(self):
        self.is_cancelled = True


class ManualLLM:
    """Hands its deltas over when it is told to."""

    def start(self, ready, on_delta, on_error):
        self.put, self.running = on_delta, Running()
        return self.running


def make(unsent):
    llm = ManualLLM()
    return llm, Generation(llm, [Job()], unsent=unsent)


def delta(index, number, reason=None, num_top=0):
    entry = TokenLogprob(number, -1.0, 1, "a", b"a", top=tuple(Logprob(0, -1.0, 1, "b", b"b") for _ in range(num_top)))
    return TextDelta(index, f"{number} ", (number,), logprobs=(entry,), finish_reason=reason)


@given(st.lists(st.integers(0, 1), max_size=3 * MAX_DELTAS), st.sets(st.integers(0, 200)))
async def test_whatever_was_merged_all_is_taken_once_in_order_and_nothing_is_counted_then(choices, takes):
    unsent = UnsentOutput(1 << 40)
    llm, generation = make(unsent)
    texts, taken = ["", ""], ["", ""]
    for number, index in enumerate(choices):
        llm.put(delta(index, number))
        texts[index] += f"{number} "
        if number in takes:
            for piece in generation.take():
                taken[piece.index] += piece.text
    assert all(len(pending) < MAX_DELTAS for pending in generation._pending.values())
    for piece in generation.take():
        taken[piece.index] += piece.text
    assert taken == texts
    assert unsent.total_bytes == 0


async def test_who_keeps_up_is_not_counted():
    unsent = UnsentOutput(1)
    llm, generation = make(unsent)
    for number in range(100):
        llm.put(delta(0, number))
        assert len(generation.take()) == 1
    assert unsent.total_bytes == 0 and generation.error is None


async def test_what_is_taken_of_one_choice_is_not_counted_while_another_waits():
    unsent = UnsentOutput(1 << 40)
    llm, generation = make(unsent)
    for index in (0, 1, 0, 0, 0, 1, 1):
        llm.put(delta(index, 7))
        if index == 1 and unsent.total_bytes == 0:
            generation.take()  # both have begun: from now on three tokens are waited for
    assert [taken.index for taken in generation.take(interval=3)] == [0]
    assert unsent.total_bytes == estimate_bytes(delta(1, 7)) and generation.has_pending
    generation.take()
    assert unsent.total_bytes == 0


async def test_above_the_limit_the_request_furthest_behind_is_ended_and_forgotten():
    unsent = UnsentOutput(20 * estimate_bytes(delta(0, 1)))
    (slow, behind), (brisk, ahead) = make(unsent), make(unsent)
    for number in range(15):
        slow.put(delta(0, number))
    for number in range(8):
        brisk.put(delta(0, number))
    assert (behind.error.status, slow.running.is_cancelled) == (503, True)
    assert behind.take() == []
    assert ahead.error is None and len(ahead.take()[0].token_ids) == 8
    assert unsent.total_bytes == 0


async def test_one_that_is_finished_and_not_read_does_not_look_whole_afterwards():
    unsent = UnsentOutput(20 * estimate_bytes(delta(0, 1)))
    (done, behind), (brisk, _) = make(unsent), make(unsent)
    for index in (0, 1):
        for number in range(8):
            done.put(delta(index, number, FinishReason.LENGTH if number == 7 else None))
    assert behind.is_finished and behind.error is None
    for number in range(15):
        brisk.put(delta(0, number))
    with pytest.raises(ApiError):
        await behind.collect()


async def test_a_request_that_is_over_is_not_counted():
    unsent = UnsentOutput(1 << 40)
    llm, generation = make(unsent)
    for number in range(5):
        llm.put(delta(0, number))
    assert unsent.total_bytes > 0
    generation.release()
    assert unsent.total_bytes == 0


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.data())
def test_merging_in_parts_is_merging_at_once(numbers, data):
    deltas = [delta(0, number, num_top=number % 3) for number in numbers]
    deltas[-1] = delta(0, numbers[-1], FinishReason.STOP)
    cut = data.draw(st.integers(1, len(deltas)))
    parts = [merge_deltas(part) for part in (deltas[:cut], deltas[cut:]) if part]
    assert merge_deltas(parts) == merge_deltas(deltas)


async def test_a_whole_reply_of_many_tokens_is_what_it_was(make_api):
    llm = FakeLLM(["a"] * 50)
    answer = await make_api(llm=llm).chat(max_tokens=50)
    assert answer.json["choices"][0]["message"]["content"] == "a" * 50
    assert answer.json["usage"]["completion_tokens"] == 50


async def test_a_reply_that_takes_too_much_is_refused(make_api):
    llm = FakeLLM(["a"] * 50)
    answer = await make_api(llm=llm, max_unsent_bytes=1000).chat(max_tokens=50)
    assert answer.status == 503 and "waits to be read" in answer.error["message"]


parts = st.tuples(st.sampled_from(["", "r"]), st.sampled_from(["", "t"]), st.booleans())


def sequence_of(deltas):
    """The parts of deltas in order, each piece a character."""
    return "".join(delta.reasoning + delta.text + "c" * len(delta.tool_calls) for delta in deltas)


@given(st.lists(parts, max_size=12))
def test_merged_in_order_the_parts_are_in_the_same_order(given_parts):
    deltas = [
        TextDelta(0, text, (1,), reasoning=reasoning, tool_calls=(ToolCallDelta(0, "x"),) * has_call)
        for reasoning, text, has_call in given_parts
    ]
    merged = merge_in_order(deltas)
    assert sequence_of(merged) == sequence_of(deltas)
    assert sum(len(delta.token_ids) for delta in merged) == len(deltas)
    assert len(merged) <= max(
        1, sequence_of(deltas).count("ct") + sequence_of(deltas).count("cr") + sequence_of(deltas).count("tr") + 1
    )
