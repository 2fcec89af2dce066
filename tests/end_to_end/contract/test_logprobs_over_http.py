"""Log-probabilities of answers and prompts."""

import pytest

from tests.end_to_end.contract.api_client import COMMA, FOX, check_error, merge_content

pytestmark = pytest.mark.assets
KEYS = ["token", "logprob", "bytes", "top_logprobs"]


def entries(ask, messages=FOX, **fields):
    return ask.choice(messages, logprobs=True, **fields)["logprobs"]["content"]


def test_logprobs_are_null_unless_asked_for(ask):
    assert ask.choice()["logprobs"] is None
    for entry in entries(ask):
        assert list(entry) == KEYS and entry["top_logprobs"] == []


@pytest.mark.parametrize("fields", [{}, {"temperature": 2, "seed": 1, "max_tokens": 8}], ids=["greedy", "drawn"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_top_logprobs_are_k_the_token_first_the_others_in_order(ask, fields, k):
    for entry in entries(ask, top_logprobs=k, **fields):
        own, *others = entry["top_logprobs"]
        assert own == {key: entry[key] for key in KEYS[:3]} and len(others) == k - 1
        values = [one["logprob"] for one in others]
        assert values == sorted(values, reverse=True)
        assert own not in others


def test_ids_that_are_asked_for_stand_behind_the_best(ask):
    """logprob_token_ids: at every token, none twice, with the numbers that the whole table would hold; greedy tokens
    are the best."""
    plain, asked = (entries(ask, top_logprobs=3, **more) for more in ({}, {"logprob_token_ids": [COMMA, 1000]}))
    for before, entry in zip(plain, asked, strict=True):
        best, others = entry["top_logprobs"][:3], entry["top_logprobs"][3:]
        assert [one["token"] for one in best] == [one["token"] for one in before["top_logprobs"]]
        assert 1 <= len(others) <= 2 and all(one not in best for one in others)
        assert all(one["logprob"] <= best[-1]["logprob"] for one in others)


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": True, "top_logprobs": 21},
        {"logprobs": True, "top_logprobs": -1},
        {"logprobs": True, "top_logprobs": -2},
        {"top_logprobs": 1},
        {"logprobs": False, "top_logprobs": -1},
    ],
    ids=str,
)
def test_top_logprobs_that_cannot_be(ask, fields):
    error = check_error(ask.ask(**fields))
    assert error["param"] == "top_logprobs"
    if fields["top_logprobs"] == 21:
        assert "21" in error["message"] and "20" in error["message"]
    ask.chat(top_logprobs=0)


def test_logprobs_are_the_models_own(ask):
    plain = entries(ask, max_tokens=1)[0]["logprob"]
    shaped = entries(ask, max_tokens=1, temperature=2, top_k=1, frequency_penalty=1)[0]["logprob"]
    assert shaped == pytest.approx(plain, abs=1e-3)
    assert entries(ask, max_tokens=1, logit_bias={str(COMMA): 100})[0]["logprob"] < -1


def test_bytes_make_the_text(ask):
    choice = ask.choice([{"role": "user", "content": "Answer with emoji."}], logprobs=True, max_tokens=12)
    shown = choice["logprobs"]["content"][: -1 if choice["finish_reason"] == "stop" else None]
    assert bytes(byte for entry in shown for byte in entry["bytes"]).decode() == choice["message"]["content"]


def test_part_of_a_character_is_empty_and_not_shown_at_the_end(ask):
    part = ask.post("/tokenize", {"prompt": "\N{GRINNING FACE}"}).json()["tokens"][0]
    choice = ask.choice(FOX, allowed_token_ids=[part], ignore_eos=True, max_tokens=2, logprobs=True)
    first, second = choice["logprobs"]["content"]
    assert (first["token"], first["bytes"]) == ("", [])
    assert choice["message"]["content"] == second["token"] == "\N{REPLACEMENT CHARACTER}"


def test_return_tokens_as_token_ids_keeps_the_bytes(ask):
    plain, named = entries(ask, top_logprobs=2), entries(ask, top_logprobs=2, return_tokens_as_token_ids=True)
    for one, other, token_id in zip(plain, named, ask.ids(FOX), strict=True):
        assert other["token"] == f"token_id:{token_id}" and one["bytes"] == other["bytes"]
        assert other["top_logprobs"][1]["token"].startswith("token_id:")
        assert [alt["bytes"] for alt in one["top_logprobs"]] == [alt["bytes"] for alt in other["top_logprobs"]]


@pytest.mark.parametrize("k", [0, 2])
def test_prompt_logprobs_are_tables_by_token_id(ask, k):
    reply = ask.chat(FOX, prompt_logprobs=k, return_token_ids=True, temperature=1, n=2, logit_bias={"5": 50})
    table, ids = reply["prompt_logprobs"], reply["prompt_token_ids"]
    assert table[0] is None and len(table) == len(ids)
    for entry, token_id in zip(table[1:], ids[1:], strict=True):
        own, *others = entry.values()
        assert next(iter(entry)) == str(token_id)
        assert {tuple(one) for one in entry.values()} == {("logprob", "rank", "decoded_token")}
        ranks = [rank for rank in range(1, k + 2) if rank != own["rank"]]
        assert [one["rank"] for one in others] == ranks[: k - (own["rank"] <= k)]
    assert reply["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


@pytest.mark.parametrize(
    "fields", [{"prompt_logprobs": 21}, {"prompt_logprobs": -1}, {"prompt_logprobs": 1, "stream": True}], ids=str
)
def test_prompt_logprobs_that_cannot_be(ask, fields):
    assert check_error(ask.ask(**fields))["param"] == "prompt_logprobs"


def test_prompt_logprobs_of_nothing_may_be_streamed(ask):
    chunks = ask.stream(prompt_logprobs=0)
    assert merge_content(chunks) == ask.text() and not any("prompt_logprobs" in chunk for chunk in chunks)


def test_an_echo_with_logprobs_scores_the_prompt(ask):
    scored = ask.chat(FOX, echo=True, logprobs=True, top_logprobs=2)["prompt_logprobs"]
    assert scored == ask.chat(FOX, prompt_logprobs=2)["prompt_logprobs"]
    assert ask.chat(FOX, echo=True)["prompt_logprobs"] is None
