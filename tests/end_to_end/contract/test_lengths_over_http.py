"""How long prompts and answers may be."""

import pytest

from tests.end_to_end.contract.api_client import CHAT, COMPLETIONS, FOX, HELLO, LENGTH, check_error

pytestmark = pytest.mark.assets
LONG = [{"role": "user", "content": "word " * 3000}]


def test_max_tokens_is_the_number_of_tokens(ask):
    reply = ask.chat(FOX, max_tokens=4)
    assert (reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]) == (4, "length")
    assert reply["choices"][0]["stop_reason"] is None


def test_max_completion_tokens_wins_over_max_tokens(ask):
    assert ask.chat(FOX, max_tokens=10**6, max_completion_tokens=2)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "must be at least 1"), (-1, "must be at least 1"), (LENGTH + 1, "cannot be greater than max_model_len")],
)
def test_a_length_that_cannot_be(ask, field, value, words):
    error = check_error(ask.ask(**{field: value}))
    assert (error["type"], error["param"]) == ("BadRequestError", field) and words in error["message"]


def test_an_answer_that_would_not_fit_is_shortened(ask):
    reply = ask.complete(prompt=[5] * (LENGTH - 4), max_tokens=LENGTH, ignore_eos=True)
    assert (reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]) == (4, "length")
    tight = {"prompt": [5] * (LENGTH - 4), "max_tokens": 10, "min_tokens": 5}
    assert check_error(ask.post(COMPLETIONS, tight))["param"] == "min_tokens"


@pytest.mark.parametrize("body", [{"prompt": [5] * LENGTH}, {"prompt": [5] * (LENGTH + 1)}, {"prompt": "word " * 3000}])
def test_a_prompt_without_room_for_an_answer(ask, body):
    error = check_error(ask.post(COMPLETIONS, body))
    assert error["param"] == "prompt" and str(LENGTH) in error["message"]
    assert str(LENGTH) in check_error(ask.post(CHAT, {"messages": LONG}))["message"]


def test_min_tokens_is_at_most_the_number_of_tokens(ask):
    assert len(ask.ids(logit_bias={"2": 100}, min_tokens=3, max_tokens=3)) == 3
    for least in (-1, 4, 10**30):
        assert "min_tokens" in check_error(ask.ask(min_tokens=least, max_tokens=3))["param"]


def test_truncate_prompt_tokens_keeps_the_end_and_truncation_side_the_beginning(ask):
    ids = ask.prompt_ids()
    assert ask.prompt_ids(truncate_prompt_tokens=5) == ids[-5:] == ask.prompt_ids(truncate_prompt_tokens=5.0)
    assert ask.prompt_ids(truncate_prompt_tokens=5, truncation_side="left") == ids[-5:]
    assert ask.prompt_ids(truncate_prompt_tokens=5, truncation_side="right") == ids[:5]
    assert ask.prompt_ids(truncate_prompt_tokens=500) == ids
    assert ask.chat(truncate_prompt_tokens=7)["usage"]["prompt_tokens"] == 7


def test_a_cut_to_minus_one_leaves_room_for_one_token(ask):
    reply = ask.chat(LONG, truncate_prompt_tokens=-1, max_tokens=5, ignore_eos=True)
    assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (LENGTH - 1, 1)


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        (HELLO, {"truncate_prompt_tokens": 0}),
        (HELLO, {"truncate_prompt_tokens": LENGTH + 1}),
        (HELLO, {"truncate_prompt_tokens": 2**63 - 1}),
        (LONG, {"truncate_prompt_tokens": LENGTH}),
        (HELLO, {"truncation_side": "middle"}),
    ],
)
def test_a_cut_that_cannot_be(ask, messages, fields):
    assert check_error(ask.ask(messages, **fields))["type"] == "BadRequestError"
