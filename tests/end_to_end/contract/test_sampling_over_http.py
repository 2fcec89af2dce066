"""Each field that shapes the draw, by what it does to the answer."""

import pytest

from tests.end_to_end.contract.api_client import COMMA, FORCED, FOX, OTHER, VOCABULARY, check_error

pytestmark = pytest.mark.assets
FREE = {"max_tokens": 5, "temperature": 1.0, "top_p": 1.0, "ignore_eos": True}


def drawn(ask, **fields):
    return ask.ids(FOX, **FREE | fields)


@pytest.fixture(scope="module")
def greedy(ask):
    return drawn(ask, temperature=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 9e-6},
        {"temperature": 0, "top_p": 0.1, "top_k": 3, "min_p": 0.5},
        {"top_k": 1},
        {"min_p": 1},
        {"top_p": 1e-6},
        {"temperature": 0, "top_k": -1},
    ],
    ids=str,
)
def test_temperature_top_k_top_p_and_min_p_at_their_ends_are_greedy(ask, greedy, fields):
    assert drawn(ask, seed=5, **fields) == greedy


def test_a_small_temperature_is_raised(ask):
    assert drawn(ask, seed=5, temperature=0.005) == drawn(ask, seed=5, temperature=0.01)


def test_a_top_k_beyond_the_vocabulary_is_off(ask):
    assert drawn(ask, seed=5, top_k=VOCABULARY + 5) == drawn(ask, seed=5, top_k=0) == drawn(ask, seed=5, top_k=10**9)


@pytest.mark.parametrize("seed", [3, 0, -2, -(2**63), 2**63 - 1])
def test_a_seed_repeats_and_another_does_not(ask, seed):
    assert drawn(ask, seed=seed) == drawn(ask, seed=seed) != drawn(ask, seed=4)


def test_a_seed_of_minus_one_is_none(ask):
    choices = ask.chat(FOX, **FREE, seed=-1, n=3, return_token_ids=True)["choices"]
    assert len({tuple(choice["token_ids"]) for choice in choices} | {tuple(drawn(ask, seed=-1))}) == 4


def test_logit_bias_is_added_and_clamped(ask, greedy):
    assert ask.ids(FOX, **FORCED) == [COMMA] * 3
    assert drawn(ask, temperature=0, logit_bias={str(greedy[0]): -100})[0] != greedy[0]
    both = {str(COMMA): 100, str(OTHER): 100}
    assert ask.ids(FOX, logit_bias=both) == ask.ids(FOX, logit_bias=both | {str(OTHER): 1000})
    assert ask.ids(FOX, allowed_token_ids=[COMMA], logit_bias={str(COMMA): -100}) == [COMMA] * 3


def test_allowed_token_ids_are_all_there_is(ask):
    assert set(drawn(ask, allowed_token_ids=[COMMA, 30, 260])) <= {COMMA, 30, 260}
    assert ask.ids(FOX, allowed_token_ids=[COMMA, 30], logit_bias={"30": 100}) == [30] * 3


def test_bad_words_are_banned_in_both_spellings(ask):
    free = ask.text(FOX, max_tokens=12)
    word = free.split()[2]
    for given in (word, "  " + word):
        assert ask.text(FOX, max_tokens=12, bad_words=[given]).split()[:3] != free.split()[:3]


def test_repetition_penalty_divides_what_the_bias_made(ask):
    ids = ask.ids(FOX, logit_bias={str(OTHER): 100}, repetition_penalty=50)
    assert ids[0] == OTHER != ids[1]


@pytest.mark.parametrize("field", ["frequency_penalty", "presence_penalty"])
def test_frequency_and_presence_penalty_count_the_answer_and_not_the_prompt(ask, field):
    """A comma is put 1 above another token where it would stand a second time, so that a penalty of 1.5 decides."""
    prompt, other = ask.prompt_ids(FOX), 260

    def score(ids, token):
        only = ask.complete(prompt=ids, allowed_token_ids=[token], max_tokens=1, logprobs=0)
        return only["choices"][0]["logprobs"]["token_logprobs"][0]

    ahead = score([*prompt, COMMA], other) + 1 - score([*prompt, COMMA], COMMA)
    pair = {"allowed_token_ids": [COMMA, other], "logit_bias": {str(COMMA): ahead}, "max_tokens": 2, "ignore_eos": True}

    def answer(ids, **fields):
        return ask.complete(prompt=ids, **pair, **fields, return_token_ids=True)["choices"][0]["token_ids"]

    assert answer(prompt) == [COMMA, COMMA]
    assert answer(prompt, **{field: 1.5}) == [COMMA, other]
    assert answer(prompt, **{field: 0.5}) == [COMMA, COMMA]
    assert answer([*prompt, COMMA], **{field: 1.5})[0] == COMMA


def test_a_frequency_penalty_grows_and_a_presence_penalty_does_not(ask):
    fields = {"allowed_token_ids": [COMMA, 30], "logit_bias": {str(COMMA): 30}, "max_tokens": 24, "ignore_eos": True}
    assert set(ask.ids(FOX, **fields, frequency_penalty=2)) == {COMMA, 30}
    assert set(ask.ids(FOX, **fields, presence_penalty=2)) == {COMMA}


@pytest.mark.parametrize("extra", [{"bad_words": [","]}, {"allowed_token_ids": [2], "min_tokens": 2}])
@pytest.mark.parametrize("stream", [False, True])
def test_constraints_that_leave_nothing_end_that_request_alone(ask, extra, stream):
    fields = {"allowed_token_ids": [COMMA], "stream": stream} | extra
    assert check_error(ask.ask(FOX, **fields))["type"] == "BadRequestError"
    assert ask.ids(FOX, **FORCED) == [COMMA] * 3


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("temperature", (0, 2)),
        ("top_p", (1, 1e-9)),
        ("top_k", (-1, 0, 1)),
        ("min_p", (0, 1)),
        ("frequency_penalty", (-2, 2)),
        ("presence_penalty", (-2, 2)),
        ("repetition_penalty", (0.01, 1000)),
        ("logit_bias", ({}, {str(VOCABULARY - 1): 1}, {"0": "1.5"})),
        ("allowed_token_ids", ([0, VOCABULARY - 1],)),
        ("bad_words", ([], [f"a{n}" for n in range(20)])),
    ],
)
def test_a_value_at_the_border_is_taken(ask, field, values):
    for value in values:
        assert ask.ask(max_tokens=1, **{field: value}).status_code == 200, value


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        ("temperature", (-0.01, 2.01), ("temperature", "[0, 2]")),
        ("top_p", (0, 1.01, -1), ("top_p", "(0, 1]")),
        ("top_k", (-2,), ("top_k", "-2")),
        ("min_p", (-0.01, 1.01), ("min_p", "[0, 1]")),
        ("frequency_penalty", (-2.01, 2.01), ("[-2, 2]",)),
        ("presence_penalty", (-2.01, 2.01), ("[-2, 2]",)),
        ("repetition_penalty", (0, -1), ("repetition_penalty",)),
        ("logit_bias", ({"-1": 1}, {str(VOCABULARY): 1}), (str(VOCABULARY),)),
        ("logit_bias", ({"abc": 1, "5": 1, "x1": 1},), ("abc", "x1")),
        ("allowed_token_ids", ([VOCABULARY], [-1]), (str(VOCABULARY),)),
        ("allowed_token_ids", ([],), ("empty",)),
        ("bad_words", ([""], ["  "], [f"word{n}" for n in range(129)], ["hello " * 1100]), ("bad_words",)),
    ],
)
def test_a_value_past_the_border_is_refused_by_name(ask, field, values, words):
    for value in values:
        error = check_error(ask.ask(**{field: value}))
        assert (error["type"], error["param"]) == ("BadRequestError", field)
        assert all(word in error["message"] for word in words), error["message"]


@pytest.mark.parametrize("num", [2000, VOCABULARY])
def test_any_number_of_ids_may_be_named(ask, num):
    assert ask.ids(FOX, allowed_token_ids=list(range(num)), logit_bias={str(n): 1 for n in range(num)})
    assert check_error(ask.ask(allowed_token_ids=[0] * (VOCABULARY + 1)))["param"] == "allowed_token_ids"
