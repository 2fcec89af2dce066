"""What a whole answer holds, and who it says that it is from."""

import re
import time

import pytest

from tests.end_to_end.contract.api_client import FOX, LENGTH, check_error

pytestmark = pytest.mark.assets


def test_the_keys_of_an_answer(ask):
    reply = ask.chat()
    assert list(reply) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("prompt_logprobs", "prompt_token_ids", "kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    assert {reply[key] for key in ("service_tier", *list(reply)[-5:])} == {None}
    assert reply["object"] == "chat.completion" and type(reply["created"]) is int
    assert abs(reply["created"] - time.time()) < 600
    choice = reply["choices"][0]
    keys = ["index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts"]
    assert list(choice) == keys
    message = choice["message"]
    assert list(message) == ["role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"]
    assert set(list(message.values())[2:]) == {None}


def test_usage_adds_up(ask):
    reply = ask.chat(FOX, return_token_ids=True)
    usage = reply["usage"]
    assert usage["prompt_tokens"] == len(reply["prompt_token_ids"])
    assert usage["completion_tokens"] == len(reply["choices"][0]["token_ids"])
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage.get("completion_tokens_details") is None


def test_the_fingerprint_is_one_for_all(ask):
    prints = {ask.chat()["system_fingerprint"], ask.chat(FOX)["system_fingerprint"]}
    assert len(prints) == 1 and re.fullmatch(r".+-.+-[0-9a-f]{8}", prints.pop())


def test_request_id_is_the_id_and_the_header_is_stronger(ask):
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{16}", ask.chat()["id"])
    assert ask.chat(request_id="r" * 256)["id"] == "chatcmpl-" + "r" * 256
    assert ask.chat(headers={"X-Request-Id": "mine"}, request_id="other")["id"] == "chatcmpl-mine"
    assert {chunk["id"] for chunk in ask.stream(request_id="one")} == {"chatcmpl-one"}
    assert ask.complete(request_id="one")["id"] == "cmpl-one"
    assert check_error(ask.ask(request_id="r" * 257))["param"] == "request_id"


@pytest.mark.parametrize("model", [None, "", "smol", "other/name"])
def test_model_may_be_any_name_and_the_first_answers(ask, model):
    assert ask.chat(model=model)["model"] == "smol"


def test_a_model_that_is_not_here(ask):
    for reply in (ask.ask(model="gpt-17"), ask.ask(model="gpt-17", stream=True)):
        error = check_error(reply, 404)
        assert (error["type"], error["param"]) == ("NotFoundError", "model")
        assert all(name in error["message"] for name in ("gpt-17", "smol", "other/name"))


def test_user_and_session_id_change_nothing(ask):
    assert ask.text(user="somebody", session_id="s", headers={"X-Session-ID": "t"}) == ask.text()


def test_the_cards_of_the_models(ask):
    listed = ask.http.get("/v1/models").json()
    assert [card["id"] for card in listed["data"]] == ["smol", "other/name"]
    card = listed["data"][0]
    assert list(card) == [
        "id",
        "object",
        "created",
        "owned_by",
        "root",
        "parent",
        "max_model_len",
        "default_sampling_params",
        "permission",
    ]
    assert (card["object"], card["parent"], card["max_model_len"]) == ("model", None, LENGTH)
    (permission,) = card["permission"]
    allowed = {name: value for name, value in permission.items() if name.startswith("allow_")}
    assert [name for name, value in allowed.items() if value] == ["allow_sampling", "allow_logprobs", "allow_view"]
    assert permission["id"].startswith("modelperm-") and permission["organization"] == "*"
