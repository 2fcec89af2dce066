"""What a body may be, and what a value may be written as."""

import re

import pytest

from server.schemas.chat import ChatRequest
from tests.end_to_end.contract.api_client import CHAT, FOX, HELLO, check_error

pytestmark = pytest.mark.assets


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b'"x"',
        b"null",
        b"",
        b"{'a': 1}",
        b'{"messages":',
        b"{} x",
        b'{"temperature": NaN}',
        b'{"temperature": -Infinity}',
        b'{"messages": "\xff"}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"a":' + b"[" * 5000,
        b'{"messages": null}',
        b'{"messages": "hi"}',
        b'{"messages": ["hi"]}',
        b'{"messages": [{"content": "hi"}]}',
        b'{"messages": [{"role": 1, "content": "hi"}]}',
        b'{"messages": [{"role": "user", "content": 5}]}',
    ],
)
def test_a_body_of_another_shape(ask, body):
    error = check_error(ask.post(CHAT, body))
    assert re.match(r"\d+ validation errors?:", error["message"])
    assert error["type"] == "Bad Request" and error["param"].split(".")[0] == "body"


@pytest.mark.parametrize(
    "fields",
    [
        *({"max_tokens": value} for value in (3.5, "3.5", "x", [3])),
        *({"ignore_eos": value} for value in ("maybe", 2, [], "")),
        *({"seed": value} for value in (2**63, -(2**63) - 1)),
        *({"priority": value} for value in (2**63, -(2**63) - 1)),
        *({"truncate_prompt_tokens": value} for value in (-2, 2**63)),
        *({"logprobs": True, "top_logprobs": value} for value in ("3", True, 2.5)),
        *({name: "3"} for name in ("prompt_logprobs", "kv_transfer_params", "vllm_xargs", "repetition_detection")),
        *({name: 5} for name in ("user", "model", "cache_salt", "stop", "documents", "logit_bias")),
    ],
    ids=str,
)
def test_a_value_of_another_type(ask, fields):
    error = check_error(ask.ask(**fields))
    assert (error["type"], error["param"]) == ("Bad Request", f"body.{list(fields)[-1]}")


@pytest.mark.parametrize("value", [True, 1, 1.0, "true", "1", "YES", "on", "T", "y"])
def test_the_ways_to_say_yes(ask, value):
    assert ask.choice(logit_bias={"2": 100}, ignore_eos=value)["finish_reason"] == "length"


@pytest.mark.parametrize("value", [False, 0, "False", "0", "no", "off", "f", "N", None])
def test_the_ways_to_say_no(ask, value):
    assert ask.choice(logit_bias={"2": 100}, ignore_eos=value)["finish_reason"] == "stop"


@pytest.mark.parametrize("value", [2, 2.0, "2"])
def test_the_ways_to_write_an_integer(ask, value):
    assert ask.chat(FOX, max_tokens=value)["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty"])
def test_no_number_is_nan_or_infinite(ask, field, value):
    assert check_error(ask.ask(**{field: value}))["param"] == field


def test_null_is_absent_everywhere(ask):
    names = ChatRequest.model_fields.keys() - {"messages", "max_tokens", "temperature"}
    assert ask.text(**dict.fromkeys(names)) == ask.text()


def test_unknown_keys_are_ignored(ask):
    unknown = {"metadata": {"a": "b"}, "store": True, "service_tier": "auto", "best_of": 3, "functions": [], "x": None}
    part = {"type": "text", "text": HELLO[0]["content"], "cache_control": {}}
    assert ask.text([{"role": "user", "content": [part], "weight": 1}], **unknown) == ask.text()


def test_every_error_is_counted_and_few_are_told(ask):
    message = check_error(ask.ask(temperature="hot", n="many"))["message"]
    assert message.startswith("2 validation errors:")
    assert len(check_error(ask.ask(stop_token_ids=["x"] * 5000))["message"]) < 3000
    assert "m" * 201 not in check_error(ask.ask(model="m" * 5000), 404)["message"]
