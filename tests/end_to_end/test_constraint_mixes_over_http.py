"""Constrained and free requests at once through HTTP, on a real, tiny model: each is answered as it is alone."""

import asyncio
import json
import random
from typing import Any

import pytest

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
}
TOOL = {"type": "function", "function": {"name": "note", "parameters": PERSON}}
NAMED = {"type": "function", "function": {"name": "note"}}
SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"frequency_penalty": 1.0},
    {"logprobs": True, "top_logprobs": 2},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}},
    {"response_format": {"type": "json_object"}, "logprobs": True, "top_logprobs": 2},
    {"structured_outputs": {"choice": ["red", "reddish", "blue"]}, "n": 2},
    {"structured_outputs": {"regex": "[a-f]{3,9}(-[0-9]+)?"}, "repetition_penalty": 1.3},
    {"structured_outputs": {"grammar": 'root ::= "(" root ")" | [xyz]+'}, "min_tokens": 4},
    {"structured_outputs": {"json": PERSON, "disable_any_whitespace": True}, "stop": ["a"]},
    {"structured_outputs": {"choice": ["one", "two", "three"]}, "use_beam_search": True, "n": 2},
    {"tools": [TOOL], "tool_choice": "required"},
    {"tools": [TOOL], "tool_choice": NAMED},
)


def request(number: int) -> dict[str, Any]:
    rng = random.Random(number)
    shape = rng.choice(SHAPES)
    greedy = "n" not in shape and rng.random() < 0.2
    words = " ".join(rng.choice(["the", "quick", "brown", "fox", "jumps"]) for _ in range(rng.randint(1, 20)))
    return {
        "messages": [{"role": "user", "content": words}],
        "max_tokens": rng.randint(8, 60),
        "temperature": 0 if greedy else 1.0,
        "seed": number,
        "stream": rng.random() < 0.5,
        **shape,
    }


async def answered(api, fields: dict[str, Any], after: int = 0) -> list[tuple[str, str, Any]]:
    """(text, tool calls, reason) of each choice, whichever way it came. after: turns of the loop to wait first."""
    for _ in range(after):
        await asyncio.sleep(0)
    reply = await api.chat(**fields)
    assert reply.status == 200, reply.text
    if not fields["stream"]:
        return [_whole(choice) for choice in reply.json["choices"]]
    found: dict[int, list[Any]] = {}
    for choice in (one for event in reply.events for one in event["choices"]):
        text, calls, _ = found.setdefault(choice["index"], ["", "", None])
        calls += "".join(call["function"]["arguments"] for call in choice["delta"].get("tool_calls", []))
        found[choice["index"]] = [text + choice["delta"].get("content", ""), calls, choice["finish_reason"]]
    return [(text, calls, reason) for _, (text, calls, reason) in sorted(found.items())]


def _whole(choice: dict[str, Any]) -> tuple[str, str, Any]:
    message = choice["message"]
    calls = "".join(call["function"]["arguments"] for call in message.get("tool_calls", []))
    return message["content"] or "", calls, choice["finish_reason"]


@pytest.mark.parametrize("first", range(0, 96, 32))
async def test_each_is_answered_as_alone(api, first):
    requests = [request(number) for number in range(first, first + 32)]
    alone = [await answered(api, fields) for fields in requests]
    rng = random.Random(first)
    together = await asyncio.gather(*(answered(api, fields, rng.randint(0, 400)) for fields in requests))
    for fields, own, expected in zip(requests, together, alone, strict=True):
        assert own == expected, json.dumps(fields)
