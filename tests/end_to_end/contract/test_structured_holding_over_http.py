"""A constraint holds at every step, whatever else shapes, ends or accompanies the answer."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.end_to_end.contract.api_client import COMMA, EOS, FOX, check_error
from tests.end_to_end.contract.checked_replies import BOLD, COLOURS, checked_choice, checked_text

pytestmark = pytest.mark.assets

RED = {"structured_outputs": {"choice": ["red"]}}
SPELLED = "<|im_end|>"


@pytest.mark.parametrize("temperature", [0.01, 1.0, 2.0])
def test_it_holds_at_any_temperature_for_every_choice(ask, temperature):
    asked = {"structured_outputs": {"regex": "[a-f]{3}[0-9]{2}"}, "temperature": temperature, "n": 4, "max_tokens": 20}
    for seed in (0, 1):
        for one in ask.chat(**asked, top_p=1.0, seed=seed)["choices"]:
            assert re.fullmatch("[a-f]{3}[0-9]{2}", one["message"]["content"]) and one["finish_reason"] == "stop"


def test_the_same_seed_draws_the_same(ask):
    asked = {"structured_outputs": {"regex": "[a-z]{8}"}, "max_tokens": 20, "seed": 11, **BOLD}
    assert ask.ids(**asked) == ask.ids(**asked)


def test_it_holds_beside_penalties_biases_and_minimal_probability(ask):
    asked = {"structured_outputs": {"regex": "(ab){4}"}, "frequency_penalty": 2, "presence_penalty": 2, "min_p": 0.5}
    assert checked_text(ask, **asked, repetition_penalty=1.8, logit_bias={str(COMMA): 100}) == "abababab"


def test_it_holds_for_every_beam(ask):
    found = ask.chat(structured_outputs={"choice": COLOURS}, use_beam_search=True, n=2, max_tokens=8)["choices"]
    texts = [one["message"]["content"] for one in found]
    assert len(set(texts)) == 2 and set(texts) <= set(COLOURS)


def test_special_tokens_never_stand_for_their_text(ask):
    """The text of the ending token, letter by letter; the token itself comes after it and ends the answer."""
    said = ask.choice(structured_outputs={"choice": [SPELLED]}, max_tokens=30, return_token_ids=True)
    assert (said["message"]["content"], said["finish_reason"]) == (SPELLED, "stop")
    assert EOS not in said["token_ids"][:-1] and said["token_ids"][-1] == EOS


def test_a_complete_answer_ends_with_stop_and_its_end_is_certain(ask):
    said = ask.choice(**RED, max_tokens=30, logprobs=True, return_token_ids=True, temperature=1)
    assert (said["message"]["content"], said["finish_reason"], said["stop_reason"]) == ("red", "stop", None)
    assert said["token_ids"][-1] == EOS
    assert said["logprobs"]["content"][-1]["logprob"] == pytest.approx(0, abs=1e-4)


def test_logprobs_are_those_of_what_was_allowed(ask):
    asked = {"structured_outputs": {"choice": ["a", "b"]}, "logprobs": True, "top_logprobs": 5, "max_tokens": 4}
    first = ask.choice(**asked)["logprobs"]["content"][0]["top_logprobs"]
    assert {one["token"] for one in first if one["logprob"] > -100} == {"a", "b"}
    assert len(first) == 5


def test_stop_tokens_stand_nowhere_but_at_the_end(ask):
    asked = {"structured_outputs": {"regex": "[,.]{4}"}, "stop_token_ids": [COMMA], "logit_bias": {str(COMMA): 100}}
    said = ask.choice(**asked, max_tokens=30, return_token_ids=True)
    assert re.fullmatch("[,.]{4}", said["message"]["content"])
    assert COMMA not in said["token_ids"][:-1] and said["finish_reason"] == "stop"


def test_ignore_eos_goes_on_freely_after_the_end(ask):
    said = ask.choice(**RED, ignore_eos=True, max_tokens=12, return_token_ids=True)
    assert said["message"]["content"].startswith("red")
    assert (said["finish_reason"], len(said["token_ids"])) == ("length", 12)


def test_min_tokens_waits_but_never_breaks_the_answer(ask):
    reply = ask.chat(
        structured_outputs={"regex": "a{0,200}"}, min_tokens=10, max_tokens=100, logit_bias={str(EOS): 100}
    )
    assert reply["usage"]["completion_tokens"] == 11
    assert checked_text(ask, **RED, min_tokens=10) == "red"


@pytest.mark.parametrize(
    ("fields", "content", "ended"),
    [
        ({"stop": "cd"}, "ab", ("stop", "cd")),
        ({"stop": "cd", "include_stop_str_in_output": True}, "abcd", ("stop", "cd")),
        ({"max_tokens": 1}, None, ("length", None)),
    ],
    ids=str,
)
def test_stop_strings_and_lengths_cut_it_short(ask, fields, content, ended):
    said = checked_choice(ask, structured_outputs={"choice": ["abcdef" * 3]}, **fields)
    assert (said["finish_reason"], said["stop_reason"]) == ended
    assert said["message"]["content"] == content or (
        content is None and "abcdef".startswith(said["message"]["content"][:1])
    )


@pytest.mark.parametrize(
    "fields", [{"allowed_token_ids": [COMMA]}, {"bad_words": ["a", "b"]}], ids=lambda fields: next(iter(fields))
)
def test_when_nothing_is_left_the_request_fails_and_says_so(ask, fields):
    assert check_error(ask.ask(structured_outputs={"regex": "[ab]"}, **fields))["type"] == "BadRequestError"
    assert ask.text() == ask.text()


def test_runs_of_whitespace_are_bounded(ask):
    """A model that wants nothing but spaces gets to the end all the same."""
    spaces = {"logit_bias": {str(one): 100 for one in ask.post("/tokenize", {"prompt": " "}).json()["tokens"]}}
    schema = {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}
    said = checked_choice(ask, structured_outputs={"json": schema}, max_tokens=150, **spaces)
    assert said["finish_reason"] == "stop" and re.sub(r"\s", "", said["message"]["content"]) == '{"a":1}'


def test_neighbours_without_one_say_what_they_say_alone(ask):
    free = {"max_tokens": 24, "temperature": 0}
    alone = ask.ids(FOX, **free)
    held = {"structured_outputs": {"regex": "[a-z]{20}"}, "max_tokens": 40}
    with ThreadPoolExecutor(8) as pool:
        shaped = [pool.submit(ask.text, FOX, **held, seed=seed, temperature=1) for seed in range(5)]
        plain = [pool.submit(ask.ids, FOX, **free) for _ in range(3)]
    assert [one.result() for one in plain] == [alone] * 3
    assert all(re.fullmatch("[a-z]{20}", one.result()) for one in shaped)


def test_a_constrained_answer_is_the_same_in_company(ask):
    held = {"structured_outputs": {"regex": "[a-z ]{30}"}, "max_tokens": 40, "temperature": 1, "seed": 5}
    alone = ask.text(FOX, **held)
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(ask.text, FOX, max_tokens=20 + number) for number in range(5)]
        assert pool.submit(ask.text, FOX, **held).result() == alone
    assert all(one.result() for one in others)
