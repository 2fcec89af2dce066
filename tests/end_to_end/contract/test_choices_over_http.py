"""Several choices of one request, drawn or searched for."""

import pytest

from tests.end_to_end.contract.api_client import (
    CHAT,
    COMMA,
    COMPLETIONS,
    DEFAULTS,
    EOS,
    FOX,
    OTHER,
    PROMPT,
    check_error,
    merge_content,
)

pytestmark = pytest.mark.assets
DRAWN = {"max_tokens": 5, "temperature": 1.0, "top_p": 1.0, "ignore_eos": True}
SEARCH = {"use_beam_search": True, "n": 2}


@pytest.mark.parametrize(("seed", "other"), [(7, 8), (2**63 - 1, -(2**63))])
def test_choice_1_of_a_seed_is_choice_0_of_the_next(ask, seed, other):
    both = ask.chat(FOX, **DRAWN, n=2, seed=seed, return_token_ids=True)["choices"]
    alone = [ask.ids(FOX, **DRAWN, seed=one) for one in (seed, other)]
    assert [choice["token_ids"] for choice in both] == alone


def test_the_seed_of_minus_one_that_n_counts_to_is_a_seed(ask):
    """Only a request's own -1 means none."""
    first, second = (ask.chat(FOX, **DRAWN, n=3, seed=-2, return_token_ids=True)["choices"] for _ in range(2))
    assert first == second and first[2]["token_ids"] == ask.ids(FOX, **DRAWN, seed=0)


def test_n_choices_are_numbered_and_their_prompt_counts_once(ask):
    reply = ask.chat(FOX, **DRAWN, n=3, return_token_ids=True)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["prompt_tokens"] == len(reply["prompt_token_ids"])
    assert reply["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in reply["choices"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n": 0, "temperature": 1}, "n must be"),
        ({"n": -1, "temperature": 1}, "n must be"),
        ({"n": 16385, "temperature": 1}, "16384"),
        ({"n": 2}, "n must be 1 when using greedy sampling"),
        ({"n": 2, "temperature": 9e-6}, "n must be 1 when using greedy sampling"),
    ],
)
def test_an_n_that_cannot_be(ask, fields, words):
    error = check_error(ask.ask(**fields))
    assert error["param"] == "n" and words in error["message"]
    assert len(ask.chat(n=2, temperature=0.001)["choices"]) == 2


def test_streams_of_choices_open_together_and_each_ends_once(ask):
    chunks = [chunk["choices"][0] for chunk in ask.stream(FOX, **DRAWN, n=3)]
    assert [(one["index"], one["delta"]) for one in chunks[:3]] == [
        (index, {"role": "assistant", "content": ""}) for index in range(3)
    ]
    for index in range(3):
        own = [one["finish_reason"] for one in chunks if one["index"] == index]
        assert own[-1] == "length" and set(own[:-1]) == {None}


def test_a_search_is_the_same_whatever_shapes_a_draw(ask):
    searched = ask.chat(FOX, **SEARCH, max_tokens=5)["choices"]
    drawing = {"temperature": 1.7, "seed": 5, "top_p": 0.1, "top_k": 1, "min_p": 0.9}
    assert ask.chat(FOX, **SEARCH, max_tokens=5, **drawing)["choices"] == searched
    assert ask.ids(FOX, use_beam_search=True, max_tokens=5) == ask.ids(FOX, max_tokens=5)


@pytest.mark.parametrize("penalty", [0, 1, -1.5])
def test_length_penalty_ranks_a_search(ask, penalty):
    choices = ask.chat(FOX, **SEARCH, max_tokens=6, logprobs=True, length_penalty=penalty)["choices"]
    rows = [[one["logprob"] for one in choice["logprobs"]["content"]] for choice in choices]
    scores = [sum(row) / len(row) ** penalty for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert ask.text(length_penalty=penalty) == ask.text()


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({"allowed_token_ids": [COMMA, 30, 260]}, lambda ids: set(ids) <= {COMMA, 30, 260}),
        ({"allowed_token_ids": [COMMA, 30], "bad_words": [","]}, lambda ids: set(ids) == {30}),
        ({"logit_bias": {str(OTHER): 100}, "repetition_penalty": 50}, lambda ids: ids[0] == OTHER != ids[1]),
        ({"logit_bias": {str(EOS): 30}, "min_tokens": 3}, lambda ids: ids.index(EOS) == 3),
        ({"logit_bias": {str(COMMA): 50}, "stop_token_ids": [COMMA]}, lambda ids: ids == [COMMA]),
        ({"logit_bias": {str(COMMA): 50}, "stop": [",,"]}, lambda ids: ids == [COMMA, COMMA]),
    ],
    ids=lambda value: None if callable(value) else str(value),
)
def test_a_search_honours_what_shapes_and_ends_an_answer(ask, fields, holds):
    reply = ask.chat(FOX, use_beam_search=True, n=1, max_tokens=4, return_token_ids=True, **fields)
    assert holds(reply["choices"][0]["token_ids"]), reply


def test_a_search_ends_at_the_end_token_and_says_so(ask):
    first = ask.chat(FOX, **SEARCH, logit_bias={str(EOS): 30}, return_token_ids=True)["choices"][0]
    assert (first["finish_reason"], first["stop_reason"], first["token_ids"][-1]) == ("stop", EOS, EOS)


def test_a_searched_choice_is_streamed_in_one_piece(ask):
    whole = ask.chat(FOX, **SEARCH, max_tokens=4)["choices"]
    chunks = ask.stream(FOX, **SEARCH, max_tokens=4)
    assert len(chunks) == 4
    assert [merge_content(chunks, index) for index in (0, 1)] == [choice["message"]["content"] for choice in whole]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"n": 9}),
        (CHAT, {"prompt_logprobs": 1}),
        (CHAT, {"length_penalty": "nan"}),
        (CHAT, {"length_penalty": "inf"}),
        (COMPLETIONS, {"stream": True}),
        (COMPLETIONS, {"echo": True, "logprobs": 1}),
    ],
)
def test_what_cannot_be_searched_for(ask, path, fields):
    body = {"messages": FOX} if path == CHAT else {"prompt": PROMPT}
    assert check_error(ask.post(path, body | DEFAULTS | SEARCH | fields))["type"] == "BadRequestError"
