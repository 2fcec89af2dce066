"""Constrained outputs, requested whole and as a stream, which must agree."""

import json
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from tests.end_to_end.contract.api_client import ApiClient, check_error

COLOURS = ["red", "green", "blue"]
CITIES = ["Paris", "Rome", "K\u00f6ln"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": CITIES}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "strict": True,
        "parameters": {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"]},
    },
}
NAMED = {"type": "function", "function": {"name": "get_time"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, TIME)}
BOLD = {"temperature": 2.0, "top_p": 1.0, "top_k": 0}  # whatever the model would say, it is only held by its shape


def checked_choice(ask: ApiClient, messages: Any = None, **fields: Any) -> dict[str, Any]:
    """One answer, which a stream tells just as well; of a call that is cut off it has sent the beginning."""
    fields = {"max_tokens": 120, "seed": 3} | fields
    whole = ask.choice(messages, **fields)
    told = [one for chunk in ask.stream(messages, **fields) for one in chunk["choices"]]
    message = whole["message"]
    assert "".join(one["delta"].get("reasoning", "") for one in told) == (message["reasoning"] or "")
    text = "".join(one["delta"].get("content", "") for one in told)
    assert text == (message["content"] or "") or (message["content"] is None and not text.strip())
    calls = message.get("tool_calls", [])
    sent = streamed_calls(told)
    assert [call["function"] for call in sent][: len(calls)] == [call["function"] for call in calls]
    assert len(sent) == len(calls) or (whole["finish_reason"], len(sent)) == ("length", len(calls) + 1)
    assert (told[-1]["finish_reason"], told[-1]["stop_reason"]) == (whole["finish_reason"], whole["stop_reason"])
    return whole


def streamed_calls(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls that the chunks of one choice make; the form of every piece is looked at."""
    calls: list[dict[str, Any]] = []
    for piece in (piece for one in told for piece in one["delta"].get("tool_calls", [])):
        if piece["index"] == len(calls):
            assert list(piece) == ["index", "id", "type", "function"]
            assert list(piece["function"]) == ["name", "arguments"]
            calls.append({"id": piece["id"], "type": piece["type"], "function": dict(piece["function"])})
        else:
            assert (list(piece), list(piece["function"])) == (["index", "function"], ["arguments"])
            assert piece["index"] == len(calls) - 1
            calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    return calls


def checked_text(ask: ApiClient, messages: Any = None, **fields: Any) -> str:
    return checked_choice(ask, messages, **fields)["message"]["content"]


def checked_document(ask: ApiClient, schema: Any, **fields: Any) -> Any:
    """The JSON of an answer that came to its end, valid under the schema."""
    answer = checked_choice(ask, **{"structured_outputs": {"json": schema}} | fields)
    assert answer["finish_reason"] == "stop", answer
    value = json.loads(answer["message"]["content"])
    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)
    return value


def check_calls(answer: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, arguments) of each call of a choice: complete, of a declared tool, valid."""
    calls = answer["message"]["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls)
    read = []
    for call in calls:
        assert list(call) == ["id", "type", "function"] and list(call["function"]) == ["name", "arguments"]
        assert call["type"] == "function"
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
        Draft202012Validator(SCHEMAS[name]).validate(arguments)
        read.append((name, arguments))
    return read


def checked_error(ask: ApiClient, **fields: Any) -> dict[str, Any]:
    """The error of a request that is refused alike whole and streamed, before any event."""
    errors = [check_error(ask.ask(**fields, stream=stream)) for stream in (False, True)]
    assert errors[0] == errors[1]
    return errors[0]


def completion(ask: ApiClient, **fields: Any) -> httpx.Response:
    return ask.post("/v1/completions", {"prompt": "A colour:", "max_tokens": 40, "temperature": 0} | fields)
