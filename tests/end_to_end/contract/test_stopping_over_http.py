"""Where an answer ends, why, and what of it is shown."""

import pytest

from tests.end_to_end.contract.api_client import COMMA, EOS, FORCED, FOX, VOCABULARY, check_error, merge_content

pytestmark = pytest.mark.assets
ENDS = {"logit_bias": {str(EOS): 100}, "max_tokens": 4}
COMMAS = {"logit_bias": {str(COMMA): 100}, "max_tokens": 6}
MARK = "<|im_end|>"


@pytest.fixture(scope="module")
def free(ask):
    """An answer that nothing stops, and its token strings."""
    choice = ask.choice(FOX, max_tokens=24, ignore_eos=True, logprobs=True, return_token_ids=True)
    return choice["message"]["content"], [one["token"] for one in choice["logprobs"]["content"]], choice["token_ids"]


def test_the_end_token_counts_and_is_not_shown(ask):
    reply = ask.chat(**ENDS, return_token_ids=True, logprobs=True)
    choice = reply["choices"][0]
    assert (choice["token_ids"], choice["message"]["content"], choice["finish_reason"]) == ([EOS], "", "stop")
    assert choice["stop_reason"] is None and reply["usage"]["completion_tokens"] == 1
    assert [one["token"] for one in choice["logprobs"]["content"]] == [MARK]


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"include_stop_str_in_output": True, "skip_special_tokens": False}, MARK),
        ({"include_stop_str_in_output": True, "skip_special_tokens": True}, ""),
        ({"skip_special_tokens": False}, ""),
        ({"ignore_eos": True, "skip_special_tokens": False}, MARK * 4),
        ({"ignore_eos": True, "skip_special_tokens": False, "spaces_between_special_tokens": False}, MARK * 4),
        ({"ignore_eos": True}, ""),
    ],
    ids=str,
)
def test_ignore_eos_skip_special_tokens_and_include_stop_str_in_output(ask, fields, shown):
    choice = ask.choice(**ENDS, **fields)
    assert choice["message"]["content"] == shown
    assert choice["finish_reason"] == ("length" if "ignore_eos" in fields else "stop")


@pytest.mark.parametrize(
    ("fields", "reason"), [({}, None), ({"ignore_eos": True}, EOS)], ids=["as the end", "as a stop id"]
)
def test_the_end_token_among_stop_token_ids(ask, fields, reason):
    choice = ask.choice(**ENDS, stop_token_ids=[EOS], **fields)
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", reason)


def test_stop_token_ids_are_told_as_integers(ask):
    for included, shown in ((False, ""), (True, ",")):
        choice = ask.choice(**COMMAS, stop_token_ids=[COMMA], include_stop_str_in_output=included)
        assert (choice["stop_reason"], choice["message"]["content"]) == (COMMA, shown)
    for wrong in ([VOCABULARY], [-1], [10**30]):
        check_error(ask.ask(stop_token_ids=wrong))


@pytest.mark.parametrize(
    ("fields", "token"),
    [(ENDS | {"max_tokens": 6}, EOS), (COMMAS | {"stop_token_ids": [COMMA]}, COMMA)],
    ids=["end", "stop id"],
)
def test_min_tokens_bans_whatever_would_end_the_answer(ask, fields, token):
    choice = ask.choice(**fields, min_tokens=3, return_token_ids=True)
    assert token not in choice["token_ids"][:3] and choice["token_ids"][3:] == [token]
    ids = ask.ids(**fields, min_tokens=2, ignore_eos=True)
    assert token not in ids[:2] and ids[2] == token


def test_a_stop_string_across_tokens_cuts_the_text_and_not_the_tokens(ask, free):
    text, tokens, ids = free
    stop = text[20:26]
    for included, end in ((False, 0), (True, len(stop))):
        reply = ask.chat(
            FOX, max_tokens=24, stop=stop, include_stop_str_in_output=included, return_token_ids=True, logprobs=True
        )
        choice = reply["choices"][0]
        assert choice["message"]["content"] == text[: text.index(stop) + end]
        assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", stop)
        num = len(choice["token_ids"])
        assert choice["token_ids"] == ids[:num] and len(choice["logprobs"]["content"]) == num
        assert reply["usage"]["completion_tokens"] == num
        assert stop in "".join(tokens[:num]) and stop not in "".join(tokens[: num - 1])


def test_the_stop_string_that_ends_first_wins(ask, free):
    text = free[0]
    late, early = text[10:30], text[12:15]
    assert ask.choice(FOX, max_tokens=24, stop=[late, early])["stop_reason"] == early
    both = [text[10:16], text[12:16]]
    for stops in (both, both[::-1]):
        first = min(stops, key=lambda stop: (text.index(stop) + len(stop), stops.index(stop)))
        assert ask.choice(FOX, max_tokens=24, stop=stops)["stop_reason"] == first


def test_a_stop_string_within_min_tokens_stays_in_the_text(ask, free):
    first = free[0][0]
    choice = ask.choice(FOX, max_tokens=24, stop=first, min_tokens=5, return_token_ids=True)
    assert choice["message"]["content"].startswith(first) and len(choice["token_ids"]) > 5


def test_a_stream_holds_back_what_may_be_a_stop_string(ask, free):
    stop = free[0][20:26]
    chunks = ask.stream(FOX, max_tokens=24, stop=stop)
    assert merge_content(chunks) == free[0][: free[0].index(stop)]
    assert chunks[-1]["choices"][0]["stop_reason"] == stop


@pytest.mark.parametrize(("stop", "is_taken"), [(["a1", "b1", "c1", "d1"], True), ([], True), (list("abcde"), False)])
def test_there_are_at_most_four_stop_strings(ask, stop, is_taken):
    reply = ask.ask(stop=stop)
    assert reply.status_code == 200 if is_taken else check_error(reply)["param"] == "stop"


@pytest.mark.parametrize("stop", ["", ["a", ""]])
def test_no_stop_string_is_empty(ask, stop):
    assert check_error(ask.ask(stop=stop))["param"] == "stop"


@pytest.mark.parametrize(("least", "num"), [(0, 4), (8, 8)])
def test_repetition_detection_counts_copies(ask, least, num):
    wanted = {"max_pattern_size": 1, "min_count": 4}
    choice = ask.choice(**FORCED, max_tokens=20, min_tokens=least, repetition_detection=wanted, return_token_ids=True)
    assert (choice["finish_reason"], choice["stop_reason"]) == ("repetition", "repetition_detected")
    assert choice["token_ids"] == [COMMA] * num


@pytest.mark.parametrize("off", [{}, {"max_pattern_size": 0, "min_count": 0}])
def test_repetition_detection_may_be_off(ask, off):
    assert ask.choice(**FORCED, max_tokens=6, repetition_detection=off)["finish_reason"] == "length"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_pattern_size": 3},
        {"max_pattern_size": 3, "min_count": 1},
        {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2},
        {"max_pattern_size": -1},
        {"min_count": -1},
        {"min_pattern_size": -1},
    ],
)
def test_repetition_detection_that_cannot_be(ask, wrong):
    assert check_error(ask.ask(repetition_detection=wrong))["param"] == "repetition_detection"
