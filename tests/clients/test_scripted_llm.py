"""The script by which clients are tried: calls in order, a text at the end, and prefixes that are counted as cached."""

import json

import pytest

from tests.clients.scripted_llm import ScriptedLLM, make_instance, read_steps
from tests.server.api import Api

TASK = 'call f with {"a": {"b": "}"}} and call g with {} then call f with {"a": 1}'
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")]


@pytest.fixture
def scripted_api() -> Api:
    return Api(ScriptedLLM())


async def ask(api: Api, *messages, **fields):
    reply = await api.chat(messages=list(messages), **fields)
    assert reply.status == 200, reply.text
    return reply.json["choices"][0]["message"], reply.json["usage"]


def test_steps_are_calls_that_are_joined_by_and():
    assert list(read_steps(TASK)) == [[("f", '{"a": {"b": "}"}}'), ("g", "{}")], [("f", '{"a": 1}')]]
    assert not list(read_steps("call me with nothing"))


async def test_a_task_is_done_step_by_step(scripted_api):
    messages = [{"role": "user", "content": f"Please {TASK}."}]
    for calls in (["f", "g"], ["f"]):
        message, _ = await ask(scripted_api, *messages, tools=TOOLS)
        assert [call["function"]["name"] for call in message["tool_calls"]] == calls
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "1"} for call in message["tool_calls"]]
        messages += [message, *results]
        messages.append({"role": "user", "content": "A reminder of the agent's own."})
    message, _ = await ask(scripted_api, *messages, tools=TOOLS)
    assert message["content"] == "Results: 1; 1; 1"
    messages += [message, {"role": "user", "content": "Thanks."}]
    assert (await ask(scripted_api, *messages, tools=TOOLS))[0]["content"] == "You said: Thanks."


async def test_a_prompt_that_begins_as_another_is_cached_so_far(scripted_api):
    long = {"role": "system", "content": "x" * 100}
    for content, num_cached in (("a", 0), ("b" * 50, 96), ("b" * 50, 144)):
        _, usage = await ask(scripted_api, long, {"role": "user", "content": content})
        assert usage["prompt_tokens_details"]["cached_tokens"] == num_cached


async def test_forced_calls_and_forms_are_small_instances(scripted_api):
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "required": ["a"],
        "$defs": {"a": {"const": 7}},
    }
    assert make_instance(schema) == {"a": 7}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    message, _ = await ask(scripted_api, {"role": "user", "content": "Hi"}, response_format=form)
    assert json.loads(message["content"]) == {"a": 7}
    message, _ = await ask(scripted_api, {"role": "user", "content": "Hi"}, tools=TOOLS, tool_choice="required")
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"
