"""Sessions of agents with tools, twenty turns each, in which every turn sends the whole conversation.

The model is a script. Each turn is sent as a stream and whole, and both must come to the same; the prompt of a turn
must begin with that of the turn before, or the prefix cache could not serve it.
"""

import json
from typing import Any

import pytest

from jaxserve import ToolCallDelta
from server.responses.reasoning_seal import open_reasoning
from tests.fake_llm import FakeLLM, Piece
from tests.server.agent_requests import CLAUDE_HEADERS, PATCH_GRAMMAR, make_claude_request, make_codex_request
from tests.server.api import Api
from tests.server.test_responses_stream import without_ids

TURNS = 20
PATCH = "*** Begin Patch\n*** Update File: é.py\n@@\n-f\n+g\n*** End Patch\n"


def call(name: str, arguments: str, number: int) -> list[Piece]:
    """Pieces of a call, cut in two."""
    half = len(arguments) // 2
    first = ToolCallDelta(0, arguments[:half], f"chatcmpl-tool-{number}", name)
    return [Piece(calls=(first,)), Piece(calls=(ToolCallDelta(0, arguments[half:]),))]


@pytest.fixture
def agent_api() -> Api:
    llm = FakeLLM(tool_parser="hermes", reasoning_parser="qwen3", max_model_len=100_000)
    llm.pause_turns = 10
    return Api(llm)


def begins_with(prompt: tuple[int, ...], former: tuple[int, ...]) -> bool:
    return prompt[: len(former)] == former


async def test_codex_gets_its_turns(agent_api):
    items: list[dict[str, Any]] = []
    former: tuple[int, ...] = ()
    for turn in range(TURNS):
        name, arguments = (
            ("apply_patch", json.dumps({"input": PATCH})) if turn % 2 else ("shell_command", '{"command": "ls"}')
        )
        said = call(name, arguments, turn) if turn < TURNS - 1 else [Piece("Done.")]
        agent_api.llm.pieces = ([Piece(reasoning=f"Step {turn}"), *said],)
        request = make_codex_request(items)
        reply = await agent_api.post("/v1/responses", request)
        whole = (await agent_api.post("/v1/responses", request | {"stream": False})).json
        assert without_ids(reply.named_events[-1]["response"]) == without_ids(whole)
        assert reply.headers["x-jaxserve-ignored-tools"] == "web_search"
        assert reply.headers["x-jaxserve-unenforced"] == "apply_patch.format"
        prompt = agent_api.llm.calls[-1].prompt_ids
        assert begins_with(prompt, former)
        former = prompt
        thought, last = done = [event["item"] for event in reply.named_events if event["type"].endswith("item.done")]
        assert open_reasoning(thought["encrypted_content"]) == f"Step {turn}"
        items += [{**thought, "content": None}, last]  # it keeps the encrypted form alone
        if last["type"] == "custom_tool_call":
            assert last["input"] == PATCH
        if last["type"] != "message":
            items.append({"type": f"{last['type']}_output", "call_id": last["call_id"], "output": f"result {turn}"})
    assert done[-1]["content"][0]["text"] == "Done."
    messages = agent_api.llm.rendered[-1]["messages"]
    assert [one["role"] for one in messages] == ["system", "developer", "user", *["assistant", "tool"] * (TURNS - 1)]
    assert [one["reasoning"] for one in messages[3::2]] == [f"Step {turn}" for turn in range(TURNS - 1)]
    assert PATCH_GRAMMAR in agent_api.llm.rendered[-1]["tools"][2]["function"]["description"]


async def test_claude_code_gets_its_turns(agent_api):
    turns: list[dict[str, Any]] = []
    former: tuple[int, ...] = ()
    for turn in range(TURNS):
        said = call("Bash", '{"command": "ls \\"a\\""}', turn) if turn < TURNS - 1 else [Piece("Done.")]
        agent_api.llm.pieces = ([Piece(reasoning=f"Step {turn}"), *said],)
        request = make_claude_request(turns, turn)
        reply = await agent_api.post("/v1/messages?beta=true", request, headers=CLAUDE_HEADERS)
        whole = (await agent_api.post("/v1/messages", request | {"stream": False}, headers=CLAUDE_HEADERS)).json
        blocks = accumulate(reply.named_events)
        assert blocks == whole["content"]
        prompt = agent_api.llm.calls[-1].prompt_ids
        assert begins_with(prompt, former), "the billing line changes each turn, and must not be part of the prompt"
        former = prompt
        turns.append({"role": "assistant", "content": blocks})
        if blocks[-1]["type"] == "tool_use":
            assert blocks[-1]["input"] == {"command": 'ls "a"'}
            result = {"type": "tool_result", "tool_use_id": blocks[-1]["id"], "content": f"result {turn}"}
            turns.append({"role": "user", "content": [result]})
    assert (blocks[-1]["text"], whole["stop_reason"]) == ("Done.", "end_turn")
    assert agent_api.llm.calls[-1].params.thinking_token_budget == 2000
    messages = agent_api.llm.rendered[-1]["messages"]
    assert [one["role"] for one in messages] == ["system", "user", *["assistant", "tool"] * (TURNS - 1)]
    counted = await agent_api.post(
        "/v1/messages/count_tokens", {**make_claude_request(turns[:-1], 99), "max_tokens": None}
    )
    assert counted.json["input_tokens"] == len(former)


def accumulate(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the blocks of a message together."""
    blocks: list[dict[str, Any]] = []
    texts: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            kind, delta = event["delta"]["type"], event["delta"]
            if kind == "input_json_delta":
                texts[event["index"]] = texts.get(event["index"], "") + delta["partial_json"]
                continue
            key = kind.removesuffix("_delta")
            blocks[event["index"]][key] += delta[key]
    for index, text in texts.items():
        blocks[index]["input"] = json.loads(text)
    return blocks
